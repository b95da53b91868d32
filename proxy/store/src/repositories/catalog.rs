//! The repositories of a store in their order, so that a page of the catalog costs its own length and not the number of
//! repositories.
//!
//! The folder of all repositories is the truth, and it is read again when its time has changed. A time that is so young
//! that another change may get the same one is not trusted, so no repository is missing from the list, whichever process
//! made it.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use entrepot_core::name::RepositoryName;

use crate::errors::StoreError;
use crate::paths::repository_of_folder;
use crate::{lock, small_files};

/// The names that a folder had when it was read last.
#[derive(Default)]
pub(super) struct Catalog {
    listed: Mutex<Option<Listed>>,
}

struct Listed {
    state: State,
    names: Arc<[RepositoryName]>,
}

/// The metadata by which one state of the folder differs from the next.
#[derive(Clone, Copy, PartialEq, Eq)]
struct State {
    inode: u64,
    modified: (i64, i64),
}

/// The kernel stamps changes with a clock that moves every few milliseconds.
const SETTLED: Duration = Duration::from_millis(100);
/// Some file systems keep whole seconds, or two of them.
const SETTLED_COARSE: Duration = Duration::from_secs(3);

impl Catalog {
    /// The names of all repositories below a folder, sorted as bytes.
    pub(super) fn names(&self, folder: &Path) -> Result<Arc<[RepositoryName]>, StoreError> {
        // Readers wait for one that reads the folder, instead of reading it as well.
        let mut listed = lock(&self.listed);
        let state = std::fs::metadata(folder).ok().and_then(|metadata| State::of(&metadata));
        if let Some(listed) = listed.as_ref().filter(|listed| Some(listed.state) == state) {
            return Ok(listed.names.clone());
        }
        let names = small_files::names(folder)?;
        let mut names: Vec<RepositoryName> = names.iter().filter_map(|name| repository_of_folder(name)).collect();
        names.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
        let names: Arc<[RepositoryName]> = names.into();
        *listed = state.map(|state| Listed { state, names: names.clone() });
        Ok(names)
    }
}

impl State {
    /// None if the folder changed so recently that another change would look the same.
    fn of(metadata: &Metadata) -> Option<Self> {
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        let settled = if modified.1 == 0 { SETTLED_COARSE } else { SETTLED };
        let age = SystemTime::now().duration_since(metadata.modified().ok()?).ok()?;
        (age >= settled).then_some(Self { inode: metadata.ino(), modified })
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    /// Gives the folder a time in the past, as if its last change had been then.
    fn age(folder: &Path, seconds: u64) {
        let at = SystemTime::now() - Duration::from_secs(seconds);
        File::open(folder).and_then(|file| file.set_modified(at)).expect("a time");
    }

    #[test]
    fn names_are_sorted_and_read_again_when_the_folder_changed() {
        let folder = tempfile::tempdir().expect("a folder");
        let make = |name: &str| std::fs::create_dir(folder.path().join(name)).expect(name);
        let catalog = Catalog::default();
        let names = || -> Vec<String> {
            catalog.names(folder.path()).expect("a list").iter().map(ToString::to_string).collect()
        };
        assert!(names().is_empty());
        make("b");
        assert_eq!(names(), ["b"], "a change that is younger than the clock's step is seen");
        make("a+c");
        make("UPPER");
        assert_eq!(names(), ["a/c", "b"]);
        age(folder.path(), 100);
        assert_eq!(names(), ["a/c", "b"]);
        let kept = catalog.names(folder.path()).expect("a list");
        assert!(Arc::ptr_eq(&kept, &catalog.names(folder.path()).expect("a list")), "not read again");
        make("d");
        age(folder.path(), 50);
        assert_eq!(names(), ["a/c", "b", "d"]);
        std::fs::remove_dir(folder.path().join("b")).expect("removed");
        age(folder.path(), 40);
        assert_eq!(names(), ["a/c", "d"]);
        assert!(Catalog::default().names(&folder.path().join("none")).expect("no folder yet").is_empty());
    }
}
