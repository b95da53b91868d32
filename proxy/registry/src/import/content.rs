//! Brings the bytes of one digest into the store: by clone or hard link if tree and store share a file system,
//! otherwise by copy. In each case the bytes are read and compared with their digest before anybody can pull them.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use entrepot_core::digest::{Digest, Hasher};
use entrepot_core::name::RepositoryName;

use super::{Brought, ImportLine};
use super::{Import, ImportError};
use entrepot_store::{Adopted, Store, StoreError};

const PIECE_BYTES: usize = 1 << 20;
/// Smaller files are copied: a link would save little, and Docker's registry overwrites manifests in place.
const LINK_MIN_BYTES: u64 = 64 << 10;

impl Import<'_> {
    /// Brings a blob and links it to a repository. False if it could not be imported, which was reported.
    pub(super) async fn blob(&mut self, repository: &RepositoryName, digest: &Digest) -> Result<bool, ImportError> {
        // The blob must not be evicted before it is linked.
        let _hold = self.store.repositories.hold(digest).await?;
        let brought = self.bring(&format!("{repository}@{digest}"), digest).await?;
        Ok(brought && self.store.repositories.at(repository).link(digest).await?)
    }

    /// Brings the bytes of a digest, and reports each digest once.
    pub(super) async fn bring(&mut self, what: &str, digest: &Digest) -> Result<bool, ImportError> {
        if !self.seen.insert(*digest) {
            return Ok(self.store.blobs.contains(digest).await);
        }
        let source = self.tree.data(digest);
        let how = match bring(self.store, digest, &source).await {
            Ok(how) => how,
            Err(NotBrought::Unreadable(error)) => {
                self.skip(what.to_owned(), error).await?;
                return Ok(false);
            }
            Err(NotBrought::Store(StoreError::WrongDigest { .. })) => {
                self.skip(what.to_owned(), "its bytes do not have this digest; push it again").await?;
                return Ok(false);
            }
            Err(NotBrought::Store(error)) => return Err(error.into()),
        };
        let size = self.store.repositories.content_bytes(digest).await.unwrap_or(0);
        self.done.blobs += u64::from(how != Brought::Present);
        self.done.bytes += if how == Brought::Present { 0 } else { size };
        self.say(ImportLine::Blob { digest: digest.to_string(), size, how }).await?;
        Ok(true)
    }
}

enum NotBrought {
    /// A file of the tree cannot be read.
    Unreadable(std::io::Error),
    Store(StoreError),
}

impl From<StoreError> for NotBrought {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

async fn bring(store: &Store, digest: &Digest, source: &Path) -> Result<Brought, NotBrought> {
    if store.blobs.contains(digest).await {
        return Ok(Brought::Present);
    }
    let mut file = File::open(source).map_err(NotBrought::Unreadable)?;
    let size = file.metadata().map_err(NotBrought::Unreadable)?.len();
    if size >= LINK_MIN_BYTES
        && let Some(adopted) = store.repositories.adopt(digest, source).await?
    {
        return Ok(match adopted {
            Adopted::Cloned => Brought::Cloned,
            Adopted::Linked => Brought::Linked,
        });
    }
    let partial = Arc::new(store.repositories.begin(digest, size).await?);
    let mut hasher = Hasher::new(digest.algorithm());
    let mut offset = 0;
    loop {
        let mut piece = vec![0; PIECE_BYTES];
        let length = file.read(&mut piece).map_err(NotBrought::Unreadable)?;
        if length == 0 {
            break;
        }
        piece.truncate(length);
        hasher.update(&piece);
        partial.write(offset, piece.into()).await?;
        offset += length as u64;
    }
    let actual = hasher.finish();
    if actual != *digest {
        return Err(StoreError::WrongDigest { expected: Box::new(*digest), actual: Box::new(actual) }.into());
    }
    partial.publish(None, &[]).await?;
    Ok(Brought::Copied)
}
