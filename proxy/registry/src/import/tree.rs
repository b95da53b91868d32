//! Reads the directory tree of Docker's registry, and never changes it:
//!
//! ```text
//! <root>/docker/registry/v2/
//!   blobs/sha256/ab/abcdef…/data                                        the bytes
//!   repositories/<name>/_layers/sha256/<hex>/link                       a blob of the repository
//!   repositories/<name>/_manifests/revisions/sha256/<hex>/link          a manifest of the repository
//!   repositories/<name>/_manifests/tags/<tag>/current/link              what a tag points to
//! ```
//!
//! The file of a link contains the digest that it leads to. Names and digests are parsed; a folder whose name does not
//! parse is not Docker's and is left out.

use std::fs::{self, DirEntry};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use entrepot_core::digest::{Algorithm, Digest};
use entrepot_core::name::{RepositoryName, Tag};

pub(super) struct Tree {
    root: PathBuf,
}

/// The reason why a tree cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    #[error("{path} holds no data of Docker's registry; name the directory that contains docker/registry/v2", path = .0.display())]
    NoTree(PathBuf),
    #[error("cannot read {path}: {source}", path = path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// The text of a digest is shorter than this.
const LINK_MAX_BYTES: u64 = 256;
const ALGORITHMS: [Algorithm; 2] = [Algorithm::Sha256, Algorithm::Sha512];
/// No repository name has more components: a name has at most 255 letters.
const DEPTH_MAX: usize = 128;

impl Tree {
    /// The tree below a directory, which is the registry's root or any folder on the way down to `v2`.
    pub(super) fn open(directory: &Path) -> Result<Self, TreeError> {
        let below = ["docker/registry/v2", "registry/v2", "v2", ""];
        let roots = below.iter().map(|below| directory.join(below));
        let mut whole = roots.filter(|root| root.join("repositories").is_dir() && root.join("blobs").is_dir());
        whole.next().map(|root| Self { root }).ok_or_else(|| TreeError::NoTree(directory.to_owned()))
    }

    /// All repositories, sorted by name.
    pub(super) fn repositories(&self) -> Result<Vec<RepositoryName>, TreeError> {
        let mut found = Vec::new();
        self.repositories_below(&self.root.join("repositories"), "", 0, &mut found)?;
        found.sort();
        Ok(found)
    }

    fn repositories_below(
        &self,
        folder: &Path,
        name: &str,
        depth: usize,
        found: &mut Vec<RepositoryName>,
    ) -> Result<(), TreeError> {
        if depth > DEPTH_MAX {
            return Ok(());
        }
        let mut is_repository = false;
        for (component, path) in folders(folder)? {
            match component.as_str() {
                "_manifests" | "_layers" => is_repository = true,
                _ if component.starts_with('_') => {}
                _ => {
                    let name = if name.is_empty() { component } else { format!("{name}/{component}") };
                    self.repositories_below(&path, &name, depth + 1, found)?;
                }
            }
        }
        found.extend(name.parse().ok().filter(|_| is_repository));
        Ok(())
    }

    pub(super) fn layers(&self, repository: &RepositoryName) -> Result<Vec<Digest>, TreeError> {
        links(&self.repository(repository).join("_layers"))
    }

    pub(super) fn manifests(&self, repository: &RepositoryName) -> Result<Vec<Digest>, TreeError> {
        links(&self.repository(repository).join("_manifests/revisions"))
    }

    pub(super) fn tags(&self, repository: &RepositoryName) -> Result<Vec<(Tag, Digest)>, TreeError> {
        let mut tags = Vec::new();
        for (name, path) in folders(&self.repository(repository).join("_manifests/tags"))? {
            let Ok(tag) = name.parse() else { continue };
            tags.extend(link(&path.join("current/link"))?.map(|digest| (tag, digest)));
        }
        tags.sort();
        Ok(tags)
    }

    /// The file with the bytes of a digest.
    pub(super) fn data(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        self.root.join("blobs").join(digest.algorithm().name()).join(&hex[..2]).join(&hex).join("data")
    }

    fn repository(&self, name: &RepositoryName) -> PathBuf {
        self.root.join("repositories").join(name.as_str())
    }
}

/// The digests of `<folder>/<algorithm>/<hex>/link`, if the link has the same digest as its path.
fn links(folder: &Path) -> Result<Vec<Digest>, TreeError> {
    let mut found = Vec::new();
    for algorithm in ALGORITHMS {
        for (hex, path) in folders(&folder.join(algorithm.name()))? {
            let Ok(digest) = format!("{}:{hex}", algorithm.name()).parse::<Digest>() else { continue };
            if link(&path.join("link"))? == Some(digest) {
                found.push(digest);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The digest in a link's file; None if there is no such file, as after a deletion, or if it does not contain a digest.
fn link(path: &Path) -> Result<Option<Digest>, TreeError> {
    let mut text = String::new();
    let read = fs::File::open(path).and_then(|file| file.take(LINK_MAX_BYTES).read_to_string(&mut text));
    match read {
        Ok(_) => Ok(text.trim().parse().ok()),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => Ok(None),
        Err(source) => Err(TreeError::Io { path: path.to_owned(), source }),
    }
}

/// The folders in a folder, without symbolic links; empty if the folder does not exist.
fn folders(folder: &Path) -> Result<Vec<(String, PathBuf)>, TreeError> {
    let failed = |source| TreeError::Io { path: folder.to_owned(), source };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry: DirEntry = entry.map_err(failed)?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if entry.file_type().map_err(failed)?.is_dir() {
            found.push((name, entry.path()));
        }
    }
    Ok(found)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use tempfile::TempDir;

    /// A tree as Docker's registry writes it.
    pub(crate) struct Written {
        pub(crate) folder: TempDir,
    }

    impl Written {
        pub(crate) fn new() -> Self {
            let written = Self { folder: tempfile::tempdir().unwrap() };
            for part in ["blobs", "repositories"] {
                fs::create_dir_all(written.root().join(part)).unwrap();
            }
            written
        }

        pub(crate) fn root(&self) -> PathBuf {
            self.folder.path().join("docker/registry/v2")
        }

        pub(crate) fn file(&self, path: &str, content: &[u8]) -> PathBuf {
            let path = self.root().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, content).unwrap();
            path
        }

        pub(crate) fn data(&self, content: &[u8]) -> Digest {
            let digest = Digest::of(Algorithm::Sha256, content);
            let hex = digest.hex();
            self.file(&format!("blobs/sha256/{}/{hex}/data", &hex[..2]), content);
            digest
        }

        pub(crate) fn layer(&self, repository: &str, content: &[u8]) -> Digest {
            let digest = self.data(content);
            self.file(
                &format!("repositories/{repository}/_layers/sha256/{}/link", digest.hex()),
                digest.to_string().as_bytes(),
            );
            digest
        }

        pub(crate) fn manifest(&self, repository: &str, tags: &[&str], content: &[u8]) -> Digest {
            let (digest, place) = (self.data(content), format!("repositories/{repository}/_manifests"));
            let text = digest.to_string();
            self.file(&format!("{place}/revisions/sha256/{}/link", digest.hex()), text.as_bytes());
            for tag in tags {
                self.file(&format!("{place}/tags/{tag}/current/link"), text.as_bytes());
                self.file(&format!("{place}/tags/{tag}/index/sha256/{}/link", digest.hex()), text.as_bytes());
            }
            digest
        }
    }

    fn name(text: &str) -> RepositoryName {
        text.parse().unwrap()
    }

    #[test]
    fn a_tree_is_read_whole() {
        let written = Written::new();
        let layer = written.layer("team/app", b"layer");
        let manifest = written.manifest("team/app", &["v1", "latest"], b"{}");
        let nested = written.manifest("team/app/tools", &["v1"], b"{ }");
        written.file("repositories/team/app/_uploads/1/data", b"half");
        written.file("repositories/team/Bad/_layers/x", b"");
        let tree = Tree::open(written.folder.path()).unwrap();
        assert_eq!(tree.repositories().unwrap(), [name("team/app"), name("team/app/tools")]);
        assert_eq!(tree.layers(&name("team/app")).unwrap(), [layer]);
        assert_eq!(tree.manifests(&name("team/app")).unwrap(), [manifest]);
        let tags = tree.tags(&name("team/app")).unwrap();
        assert_eq!(tags, [("latest".parse().unwrap(), manifest), ("v1".parse().unwrap(), manifest)]);
        assert_eq!(tree.tags(&name("team/app/tools")).unwrap(), [("v1".parse().unwrap(), nested)]);
        assert_eq!(fs::read(tree.data(&layer)).unwrap(), b"layer");
        assert!(tree.layers(&name("none")).unwrap().is_empty());
    }

    #[test]
    fn the_tree_is_found_from_any_folder_on_the_way() {
        let written = Written::new();
        for below in ["", "docker", "docker/registry", "docker/registry/v2"] {
            assert_eq!(
                Tree::open(&written.folder.path().join(below)).unwrap().root,
                written.root().join(""),
                "{below}"
            );
        }
        let error = Tree::open(&written.root().join("blobs")).err().unwrap().to_string();
        assert!(error.contains("docker/registry/v2"), "{error}");
    }

    #[test]
    fn wrong_and_missing_links_are_left_out() {
        let written = Written::new();
        let layer = written.layer("a", b"one");
        let other = Digest::of(Algorithm::Sha256, b"other");
        let layers = "repositories/a/_layers/sha256";
        written.file(&format!("{layers}/{}/link", other.hex()), layer.to_string().as_bytes());
        let deleted = Digest::of(Algorithm::Sha256, b"deleted").hex();
        fs::create_dir_all(written.root().join(layers).join(deleted)).unwrap();
        written.file(&format!("{layers}/nohex/link"), b"x");
        written.file("repositories/a/_manifests/tags/v1/current/link", b"\xff\xfe");
        symlink("/etc", written.root().join("repositories/a/_manifests/tags/etc")).unwrap();
        symlink("/", written.root().join("repositories/root")).unwrap();
        let tree = Tree::open(written.folder.path()).unwrap();
        assert_eq!(tree.layers(&name("a")).unwrap(), [layer]);
        assert!(tree.tags(&name("a")).unwrap().is_empty());
        assert_eq!(tree.repositories().unwrap(), [name("a")]);
    }
}
