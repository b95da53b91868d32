//! Whether a change may come from a browser: the one decision for the registry's protocol, for its pages, and for what
//! else takes changes here. On a request's head, without I/O.
//!
//! A page of another site can have its visitor's browser send requests here, and can give its own name this machine's
//! address (DNS rebinding). Browsers say so in headers that a page cannot change: `Origin`, `Sec-Fetch-Site`, and the
//! Host. Clients of registries send the first two never. So a request that has one of them is a browser's, and changes
//! something only if Host and Origin are one and the same of our own names; a request that has neither may name any host.

use entrepot_core::host::RegistryHost;
use http::HeaderName;
use http::header::{HOST, ORIGIN};
use http::request::Parts;

use super::LocalRegistry;
use entrepot_net::http::fields::only;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The reason why a request changes nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum Forgery {
    /// The request is for another host.
    #[error(
        "This registry does not know itself by the name in the address, so a browser changes nothing here. Open it by \
         this machine's address or name, or add the name that you use to registry.names."
    )]
    Host,
    /// The request comes from a page of another site.
    #[error("Changes are not taken from pages of another site. Open the registry's own page and try again.")]
    Origin,
    /// The form is not one of ours, is older than this process, or is another account's.
    #[error("The form is out of date: the server was started anew, or another account is logged in. Try again.")]
    Proof,
}

/// Whether a request may change something, as far as its sender may be a browser.
pub(super) fn check_change(registry: &LocalRegistry, head: &Parts) -> Result<(), Forgery> {
    decide(|host| registry.is_own_name(host), head)
}

/// Whether a request names one of our own names as its host. The port does not matter, because mapped ports are common.
pub(super) fn check_host(registry: &LocalRegistry, head: &Parts) -> Result<(), Forgery> {
    host_is_own(|host| registry.is_own_name(host), head)
}

fn decide(is_own: impl Fn(&RegistryHost) -> bool, head: &Parts) -> Result<(), Forgery> {
    if !head.headers.contains_key(ORIGIN) && !head.headers.contains_key(SEC_FETCH_SITE) {
        return Ok(());
    }
    host_is_own(is_own, head)?;
    let host = only(&head.headers, &HOST).or(head.uri.authority().map(|authority| authority.as_str()));
    let same_origin = only(&head.headers, &ORIGIN).is_some_and(|origin| {
        let own = |scheme| origin.strip_prefix(scheme).is_some_and(|rest| Some(rest) == host);
        own("http://") || own("https://")
    });
    let same_site =
        !head.headers.contains_key(SEC_FETCH_SITE) || only(&head.headers, &SEC_FETCH_SITE) == Some("same-origin");
    if same_origin && same_site { Ok(()) } else { Err(Forgery::Origin) }
}

fn host_is_own(is_own: impl Fn(&RegistryHost) -> bool, head: &Parts) -> Result<(), Forgery> {
    let named = only(&head.headers, &HOST);
    let target = head.uri.authority().map(|authority| authority.as_str());
    let is_ours = |text: &str| RegistryHost::parse(text, 80).is_ok_and(|host| is_own(&host));
    let mut told = named.into_iter().chain(target).peekable();
    let is_told = told.peek().is_some() && head.headers.get_all(HOST).iter().count() <= 1;
    if is_told && told.all(is_ours) { Ok(()) } else { Err(Forgery::Host) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decided(uri: &str, pairs: &[(&str, &str)]) -> Result<(), Forgery> {
        let mut request = http::Request::builder().uri(uri);
        for (name, value) in pairs {
            request = request.header(*name, *value);
        }
        let own = ["docker-registry.local", "192.0.2.1", "fd00::5"];
        decide(|host| own.contains(&host.name()), &request.body(()).expect("a request").into_parts().0)
    }

    #[test]
    fn a_browser_changes_something_only_where_host_and_origin_are_one_of_our_names() {
        let (own, evil) = ("docker-registry.local:5000", "evil.example:5000");
        let (of_own, of_evil) = ("http://docker-registry.local:5000", "http://evil.example:5000");
        for (pairs, expected) in [
            // No browser.
            (&[("host", own)][..], Ok(())),
            (&[("host", evil)], Ok(())),
            (&[], Ok(())),
            // Our own page, by each of our names.
            (&[("host", own), ("origin", of_own)], Ok(())),
            (
                &[("host", own), ("origin", "https://docker-registry.local:5000"), ("sec-fetch-site", "same-origin")],
                Ok(()),
            ),
            (&[("host", "192.0.2.1"), ("origin", "http://192.0.2.1")], Ok(())),
            (&[("host", "[fd00::5]:5000"), ("origin", "http://[fd00::5]:5000")], Ok(())),
            // A page of another site.
            (&[("host", own), ("origin", of_evil)], Err(Forgery::Origin)),
            (&[("host", own), ("origin", "null")], Err(Forgery::Origin)),
            (&[("host", own), ("origin", "http://docker-registry.local")], Err(Forgery::Origin)),
            (&[("host", own), ("origin", "http://docker-registry.local:5000.evil.example")], Err(Forgery::Origin)),
            (&[("host", own), ("origin", of_own), ("origin", of_evil)], Err(Forgery::Origin)),
            (&[("host", own), ("origin", of_own), ("sec-fetch-site", "cross-site")], Err(Forgery::Origin)),
            (&[("host", own), ("origin", of_own), ("sec-fetch-site", "same-site")], Err(Forgery::Origin)),
            (&[("host", own), ("sec-fetch-site", "cross-site")], Err(Forgery::Origin)),
            (&[("host", own), ("sec-fetch-site", "none")], Err(Forgery::Origin)),
            (&[("host", own), ("sec-fetch-site", "same-origin")], Err(Forgery::Origin)),
            // A name that was given our address.
            (&[("host", evil), ("origin", of_evil)], Err(Forgery::Host)),
            (&[("host", evil), ("origin", of_evil), ("sec-fetch-site", "same-origin")], Err(Forgery::Host)),
            (&[("host", "198.51.100.1"), ("origin", "http://198.51.100.1")], Err(Forgery::Host)),
            (&[("host", own), ("host", evil), ("origin", of_own)], Err(Forgery::Host)),
            (&[("origin", of_own)], Err(Forgery::Host)),
        ] {
            assert_eq!(decided("/v2/", pairs), expected, "{pairs:?}");
        }
        let by_proxy = "http://evil.example:5000/v2/";
        assert_eq!(decided(by_proxy, &[("host", own), ("origin", of_own)]), Err(Forgery::Host), "both are named");
    }
}
