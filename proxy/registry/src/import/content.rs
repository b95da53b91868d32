//! Bringing the bytes of one digest into the store: by clone or hard link where tree and store share a file system, else
//! by copy. Whichever way, the bytes are read and compared with their digest before they are anybody's content.

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
/// Smaller files are copied: a link saves nothing there, and Docker's registry writes manifests in place.
const LINK_MIN_BYTES: u64 = 64 << 10;

impl Import<'_> {
    /// Brings a blob and gives it to a repository; false where it could not be had, which was told.
    pub(super) async fn blob(&mut self, repository: &RepositoryName, digest: &Digest) -> Result<bool, ImportError> {
        // So that it does not make room for other content before it is linked.
        let _hold = self.store.repositories.hold(digest).await?;
        let brought = self.bring(&format!("{repository}@{digest}"), digest).await?;
        Ok(brought && self.store.repositories.at(repository).link(digest).await?)
    }

    /// Brings the bytes of a digest, which is news once.
    pub(super) async fn bring(&mut self, what: &str, digest: &Digest) -> Result<bool, ImportError> {
        if !self.seen.insert(*digest) {
            return Ok(self.store.blobs.contains(digest).await);
        }
        let source = self.tree.data(digest);
        let how = match bring(self.store, digest, &source).await {
            Ok(how) => how,
            Err(NotBrought::Unreadable(error)) => {
                self.skip(what.to_owned(), error)?;
                return Ok(false);
            }
            Err(NotBrought::Store(StoreError::WrongDigest { .. })) => {
                self.skip(what.to_owned(), "its bytes are not what its digest says; push it again")?;
                return Ok(false);
            }
            Err(NotBrought::Store(error)) => return Err(error.into()),
        };
        let size = self.store.repositories.content_bytes(digest).await.unwrap_or(0);
        self.done.blobs += u64::from(how != Brought::Present);
        self.done.bytes += if how == Brought::Present { 0 } else { size };
        self.say(ImportLine::Blob { digest: digest.to_string(), size, how })?;
        Ok(true)
    }
}

enum NotBrought {
    /// The tree's fault.
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
