//! The place of everything on disk. Only this module builds paths. It builds them from re-encoded digests, random
//! numbers and, below `pushed/`, from parsed names: a [`RepositoryName`] with its slashes replaced is one component
//! that begins with a letter or digit; a [`Tag`] is one that begins with neither a dot nor a dash. Nothing else that a
//! client or an upstream wrote becomes part of a file name (threat T11).
//!
//! ```text
//! <data>/blobs/sha256/ab/abcdef…            published content, immutable, named by its digest
//! <data>/blobs/sha512/cd/cdef01…            likewise
//! <data>/fill/sha256-abcdef….<random>       a partial blob that runs or was paused
//! <data>/fill/sha256-abcdef….<random>.extents   origin and bytes of a paused one, which is dropped without it
//! <data>/fill/unnamed.<random>              a partial blob whose digest is known only at its end
//! <data>/pushed/<repository>/blobs/sha256-abcdef…       this repository has the content; its time: a push last asked
//! <data>/pushed/<repository>/manifests/sha256-abcdef…   likewise, a manifest; holds its type and its subject
//! <data>/pushed/<repository>/referrers/sha256-…/sha256-abcdef…   a referrer of a subject; holds the list's entry
//! <data>/pushed/<repository>/tags/v1            the digest that the tag points to; a second line: set with a login
//! <data>/pushed/<repository>/untagged/sha256-abcdef…    a tag left this manifest, at the file's time; others may remain
//! <data>/pins/sha256/ab/abcdef…             a repository has, or is about to have, this content: it is never evicted
//! <data>/scrub                               the last content that the scrub compared, while a round goes on
//! <data>/set-aside/sha256-abcdef…           pushed content that rotted, kept for examination
//! <data>/uploads/<id>                       the bytes of an upload that runs; <id>.session is the note about it
//! <data>/index.redb                         the index, which can be rebuilt from blobs/
//! <data>/index.redb.new                     an index in its new format on its way; one that is found is removed
//! <data>/index.redb.format-1                the index in the format before, until the first stop in good order
//! <data>/index.redb.broken-<unix time>      an index that could not be read, kept for examination (the last one)
//! ```

use std::path::{Path, PathBuf};

use entrepot_core::digest::{Algorithm, Digest};
use entrepot_core::name::{RepositoryName, Tag};

use crate::upload_id::UploadId;

/// The algorithms that have a folder.
pub(super) const ALGORITHMS: [Algorithm; 2] = [Algorithm::Sha256, Algorithm::Sha512];

const SIDECAR: &str = ".extents";
const UNNAMED: &str = "unnamed";
const BROKEN: &str = "index.redb.broken-";
const SESSION: &str = ".session";
/// Stands for the slash in a repository's name. The name cannot contain this character otherwise.
const SLASH: &str = "+";

/// The folders of a repository.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kept {
    Blobs,
    Manifests,
    Referrers,
    Tags,
    Untagged,
}

/// Builds the paths of one store.
#[derive(Clone, Debug)]
pub(super) struct Paths {
    root: PathBuf,
}

/// The name of a partial blob.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FillName {
    /// The digest that it will have. None until its end is known.
    pub(super) digest: Option<Digest>,
    /// Tells two partial blobs of one digest apart.
    pub(super) random: u64,
}

impl Paths {
    pub(super) fn new(data_dir: &Path) -> Self {
        Self { root: data_dir.to_owned() }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    /// The folder of all blobs of one algorithm.
    pub(super) fn algorithm(&self, algorithm: Algorithm) -> PathBuf {
        self.blobs().join(algorithm.name())
    }

    /// The folder of the blobs that share their first byte.
    pub(super) fn shard(&self, algorithm: Algorithm, first_byte: u8) -> PathBuf {
        self.algorithm(algorithm).join(format!("{first_byte:02x}"))
    }

    /// The folder that a blob lies in.
    pub(super) fn shard_of(&self, digest: &Digest) -> PathBuf {
        self.shard(digest.algorithm(), digest.bytes()[0])
    }

    pub(super) fn blob(&self, digest: &Digest) -> PathBuf {
        self.shard_of(digest).join(digest.hex())
    }

    pub(super) fn fills(&self) -> PathBuf {
        self.root.join("fill")
    }

    pub(super) fn fill(&self, name: FillName) -> PathBuf {
        self.fills().join(name.text())
    }

    pub(super) fn sidecar(&self, name: FillName) -> PathBuf {
        self.fills().join(name.text() + SIDECAR)
    }

    /// The folder of all repositories that were pushed to.
    pub(super) fn pushed(&self) -> PathBuf {
        self.root.join("pushed")
    }

    pub(super) fn repository(&self, repository: &RepositoryName) -> PathBuf {
        self.pushed().join(repository.as_str().replace('/', SLASH))
    }

    pub(super) fn kept(&self, repository: &RepositoryName, kept: Kept) -> PathBuf {
        let folder = match kept {
            Kept::Blobs => "blobs",
            Kept::Manifests => "manifests",
            Kept::Referrers => "referrers",
            Kept::Tags => "tags",
            Kept::Untagged => "untagged",
        };
        self.repository(repository).join(folder)
    }

    pub(super) fn pushed_blob(&self, repository: &RepositoryName, digest: &Digest) -> PathBuf {
        self.kept(repository, Kept::Blobs).join(digest_file(digest))
    }

    pub(super) fn pushed_manifest(&self, repository: &RepositoryName, digest: &Digest) -> PathBuf {
        self.kept(repository, Kept::Manifests).join(digest_file(digest))
    }

    /// The note that a tag left a manifest.
    pub(super) fn untagged(&self, repository: &RepositoryName, digest: &Digest) -> PathBuf {
        self.kept(repository, Kept::Untagged).join(digest_file(digest))
    }

    /// The folder of the referrers of a subject.
    pub(super) fn referrers(&self, repository: &RepositoryName, subject: &Digest) -> PathBuf {
        self.kept(repository, Kept::Referrers).join(digest_file(subject))
    }

    pub(super) fn referrer(&self, repository: &RepositoryName, subject: &Digest, digest: &Digest) -> PathBuf {
        self.referrers(repository, subject).join(digest_file(digest))
    }

    pub(super) fn tag(&self, repository: &RepositoryName, tag: &Tag) -> PathBuf {
        self.kept(repository, Kept::Tags).join(tag.as_str())
    }

    /// The folder of the pins that share their first byte.
    pub(super) fn pins(&self, algorithm: Algorithm, first_byte: u8) -> PathBuf {
        self.root.join("pins").join(algorithm.name()).join(format!("{first_byte:02x}"))
    }

    pub(super) fn pin(&self, digest: &Digest) -> PathBuf {
        self.pins(digest.algorithm(), digest.bytes()[0]).join(digest.hex())
    }

    /// The folder of pushed content that was found bad.
    pub(super) fn set_aside(&self) -> PathBuf {
        self.root.join("set-aside")
    }

    pub(super) fn aside(&self, digest: &Digest) -> PathBuf {
        self.set_aside().join(digest_file(digest))
    }

    /// The note of the scrub's place.
    pub(super) fn scrub(&self) -> PathBuf {
        self.root.join("scrub")
    }

    pub(super) fn uploads(&self) -> PathBuf {
        self.root.join("uploads")
    }

    pub(super) fn upload(&self, id: UploadId) -> PathBuf {
        self.uploads().join(id.to_string())
    }

    pub(super) fn session(&self, id: UploadId) -> PathBuf {
        self.uploads().join(format!("{id}{SESSION}"))
    }

    pub(super) fn index(&self) -> PathBuf {
        self.root.join("index.redb")
    }

    /// The index in another format while it is made.
    pub(super) fn new_index(&self) -> PathBuf {
        self.root.join("index.redb.new")
    }

    /// The index as it was in an earlier format.
    pub(super) fn earlier_index(&self, format: u64) -> PathBuf {
        self.root.join(format!("index.redb.format-{format}"))
    }

    pub(super) fn broken_index(&self, unix_time_s: u64) -> PathBuf {
        self.root.join(format!("{BROKEN}{unix_time_s}"))
    }

    /// Whether a file beside the index is an earlier index that was set aside.
    pub(super) fn is_broken_index(file_name: &str) -> bool {
        file_name.strip_prefix(BROKEN).is_some_and(|time| time.bytes().all(|byte| byte.is_ascii_digit()))
    }
}

impl FillName {
    fn text(self) -> String {
        match self.digest {
            Some(digest) => format!("{}-{}.{:016x}", digest.algorithm().name(), digest.hex(), self.random),
            None => format!("{UNNAMED}.{:016x}", self.random),
        }
    }

    /// Reads the name of a partial blob. None for sidecars and foreign files.
    pub(super) fn parse(file_name: &str) -> Option<Self> {
        let (head, random) = file_name.split_once('.')?;
        let digest = if head == UNNAMED { None } else { Some(head.replacen('-', ":", 1).parse().ok()?) };
        let name = Self { digest, random: u64::from_str_radix(random, 16).ok()? };
        (name.text() == file_name).then_some(name)
    }
}

/// A digest as one component.
fn digest_file(digest: &Digest) -> String {
    format!("{}-{}", digest.algorithm().name(), digest.hex())
}

/// The digest of a file below `pushed/`. None for foreign files, and for those that are being written.
pub(super) fn digest_of_link(file_name: &str) -> Option<Digest> {
    let digest: Digest = file_name.replacen('-', ":", 1).parse().ok()?;
    (digest_file(&digest) == file_name).then_some(digest)
}

/// The repository of a folder below `pushed/`.
pub(super) fn repository_of_folder(folder_name: &str) -> Option<RepositoryName> {
    folder_name.replace(SLASH, "/").parse().ok()
}

/// The upload of a session's file.
pub(super) fn upload_of_session(file_name: &str) -> Option<UploadId> {
    file_name.strip_suffix(SESSION)?.parse().ok()
}

/// The digest of a published file, from its folder and its name. None for foreign files.
pub(super) fn digest_of_file(algorithm: Algorithm, first_byte: u8, file_name: &str) -> Option<Digest> {
    let digest: Digest = format!("{}:{file_name}", algorithm.name()).parse().ok()?;
    (digest.bytes()[0] == first_byte).then_some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_layout_is_the_drawn_one() {
        let paths = Paths::new(Path::new("/data"));
        let digest = Digest::of(Algorithm::Sha256, b"");
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(paths.blob(&digest), Path::new(&format!("/data/blobs/sha256/e3/{hex}")));
        let name = FillName { digest: Some(digest), random: 0xabc };
        assert_eq!(paths.fill(name), Path::new(&format!("/data/fill/sha256-{hex}.0000000000000abc")));
        assert_eq!(paths.sidecar(name), Path::new(&format!("/data/fill/sha256-{hex}.0000000000000abc.extents")));
        let unnamed = FillName { digest: None, random: 1 };
        assert_eq!(paths.fill(unnamed), Path::new("/data/fill/unnamed.0000000000000001"));
        let repository: RepositoryName = "team/app.x".parse().unwrap();
        let below = format!("/data/pushed/team+app.x/referrers/sha256-{hex}/sha256-{hex}");
        assert_eq!(paths.referrer(&repository, &digest, &digest), Path::new(&below));
        assert_eq!(paths.tag(&repository, &"v1".parse().unwrap()), Path::new("/data/pushed/team+app.x/tags/v1"));
        assert_eq!(paths.pin(&digest), Path::new(&format!("/data/pins/sha256/e3/{hex}")));
        assert_eq!(repository_of_folder("team+app.x"), Some(repository));
        assert_eq!(paths.broken_index(7), Path::new("/data/index.redb.broken-7"));
        assert!(Paths::is_broken_index("index.redb.broken-7") && !Paths::is_broken_index("index.redb.broken-../7"));
    }

    #[test]
    fn foreign_file_names_are_nobodys() {
        let hex = Digest::of(Algorithm::Sha256, b"").hex();
        for foreign in [
            "",
            ".",
            "..",
            "unnamed.0000000000000001.ranges",
            "unnamed.1",
            &format!("sha256-{hex}"),
            &format!("sha256-{hex}.1"),
            &format!("sha256-{hex}.0000000000000abc.extents"),
            &format!("sha256-{hex}.0000000000000ABC"),
            &format!("sha256-{}.0000000000000abc", &hex[1..]),
        ] {
            assert_eq!(FillName::parse(foreign), None, "{foreign}");
        }
        for foreign in ["", ".tmp", "sha256", &hex, &format!("sha256-{}", &hex[1..]), &format!("sha256:{hex}")] {
            assert_eq!(digest_of_link(foreign), None, "{foreign}");
        }
        for foreign in ["", ".", "..", "A", "a++b", "+a"] {
            assert_eq!(repository_of_folder(foreign), None, "{foreign}");
        }
        assert_eq!(digest_of_file(Algorithm::Sha256, 0xe4, &hex), None, "in the wrong folder");
        assert_eq!(digest_of_file(Algorithm::Sha512, 0xe3, &hex), None, "of another length");
        assert!(digest_of_file(Algorithm::Sha256, 0xe3, &hex).is_some());
    }

    proptest! {
        #[test]
        fn no_digest_leaves_the_root(bytes in any::<[u8; 32]>(), more in any::<[u8; 32]>(), random in any::<u64>()) {
            let long: Vec<u8> = [bytes, more].concat();
            let long = Digest::from_bytes(Algorithm::Sha512, &long).unwrap();
            for digest in [Digest::Sha256(bytes), long] {
                let paths = Paths::new(Path::new("/data"));
                let blob = paths.blob(&digest);
                let name = FillName { digest: Some(digest), random };
                let plain = |path: &Path| path.components().skip(1).all(|part| matches!(part, std::path::Component::Normal(_)));
                prop_assert!(plain(&blob) && plain(&paths.fill(name)) && blob.starts_with("/data/blobs"));
                let file_name = blob.file_name().unwrap().to_str().unwrap();
                prop_assert_eq!(digest_of_file(digest.algorithm(), digest.bytes()[0], file_name), Some(digest));
                prop_assert_eq!(FillName::parse(&name.text()), Some(name));
            }
        }

        #[test]
        fn no_name_leaves_its_folder(
            repository in "[a-z0-9]{1,3}((\\.|_|__|-{1,3}|/)[a-z0-9]{1,3}){0,5}",
            tag in "[a-zA-Z0-9_][a-zA-Z0-9._-]{0,20}",
        ) {
            let paths = Paths::new(Path::new("/data"));
            let repository: RepositoryName = repository.parse().unwrap();
            let path = paths.tag(&repository, &tag.parse().unwrap());
            let parts: Vec<_> = path.components().skip(1).collect();
            prop_assert!(parts.iter().all(|part| matches!(part, std::path::Component::Normal(_))));
            prop_assert_eq!(parts.len(), 5);
            let folder = paths.repository(&repository);
            prop_assert_eq!(repository_of_folder(folder.file_name().unwrap().to_str().unwrap()), Some(repository));
        }

        #[test]
        fn any_text_parses_to_itself_or_nothing(text in "\\PC{0,90}") {
            if let Some(name) = FillName::parse(&text) {
                prop_assert_eq!(name.text(), text);
            }
        }
    }
}
