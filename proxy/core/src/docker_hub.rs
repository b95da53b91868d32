//! Docker Hub's names: the one registry that people call by a name which serves no images.
//!
//! Every rule that treats Docker Hub in a special way (its accounts, its token server, its official images, its mirrors)
//! takes the names from here.

use crate::host::{HTTPS_PORT, RegistryHost};

/// The name in image references, as in `docker.io/library/busybox`. No registry answers there.
pub const NAME: &str = "docker.io";

/// The registry that has the images.
pub const REGISTRY: &str = "registry-1.docker.io";

/// An older name of the registry, still in many configurations.
pub const INDEX: &str = "index.docker.io";

/// The token server. It has no images.
pub const TOKEN_HOST: &str = "auth.docker.io";

/// The path at which [`TOKEN_HOST`] gives tokens.
pub const TOKEN_PATH: &str = "/token";

/// Begins the names of its official images, which people write without it.
pub const OFFICIAL: &str = "library/";

/// The hosts that clients connect to.
pub const HOSTS: [&str; 3] = [REGISTRY, TOKEN_HOST, INDEX];

/// The names that mean the registry when somebody names an image.
pub const REGISTRY_NAMES: [&str; 3] = [NAME, INDEX, REGISTRY];

/// Every name, as an administrator may write it beside an account.
pub const ALL_NAMES: [&str; 4] = [REGISTRY, TOKEN_HOST, INDEX, NAME];

/// Whether a client that names `host` means Docker Hub's registry.
///
/// ```
/// use entrepot_core::docker_hub;
///
/// let means = |host: &str| docker_hub::is_meant(&host.parse().unwrap());
/// assert!(means("docker.io") && means("index.docker.io") && means("registry-1.docker.io"));
/// assert!(!means("docker.io:5000") && !means("auth.docker.io") && !means("hub.docker.com"));
/// ```
pub fn is_meant(host: &RegistryHost) -> bool {
    host.port() == HTTPS_PORT && REGISTRY_NAMES.contains(&host.name())
}
