//! Configurations for the unit tests of other rooms.

use super::ready::Config;
use super::{Flags, Found, HostFacts, load};

/// What `entrepot.toml` with this text says, on a host that has nothing else to say.
pub(crate) fn config(toml: &str) -> Config {
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("entrepot.toml");
    std::fs::write(&file, toml).expect("file");
    let flags = Flags { config: Some(file), data_dir: Some(folder.path().to_owned()), ..Flags::default() };
    let host = HostFacts { uid: 0, look: Box::new(|_| Found::Nothing) };
    load(&flags, &|_| None, &host).expect("configuration").config
}
