//! Protection of forms: only a person who looks at one of our pages may make changes. Decisions on a request's head,
//! without I/O.
//!
//! A page of another site can post a form here with the visitor's browser (request forgery). Browsers send a stored
//! name and password, and a machine's network address, with any site's requests. Neither can be prevented (`SameSite`
//! is for cookies, and there are none). So a change needs all of these: a Host that is this registry's (under a rebound
//! name a page has no forms); no sign of another origin (`Origin`, `Sec-Fetch-Site`); and the proof that is on the page
//! with the form, which no other site can read. The proof is for one account and one run of the process. The proof of
//! one account, or of a visitor without one, is refused for another account.

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use entrepot_core::host::RegistryHost;
use http::HeaderName;
use http::header::{HOST, ORIGIN};
use http::request::Parts;

use crate::LocalRegistry;
use crate::access::Principal;
use entrepot_config::ready::RegistrySettings;
use entrepot_net::http::fields::only;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Makes the proofs in forms, and recognises them.
pub struct CsrfKey(Option<hmac::Key>);

/// The reason why a request is not answered, or changes nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum Forgery {
    /// The request is for another host.
    #[error(
        "This registry does not know itself by the name in the address, so nothing is changed here. Open it by this \
         machine's address or name, or set registry.hostname to the name that you use."
    )]
    Host,
    /// The request comes from a page of another site.
    #[error("Changes are not taken from pages of another site. Open the registry's own page and try again.")]
    Origin,
    /// The form is not one of ours, is older than this process, or is another account's.
    #[error("The form is out of date: the server was started anew, or another account is logged in. Try again.")]
    Proof,
}

impl CsrfKey {
    /// Makes a fresh random key. If the system has no randomness, every form is refused.
    pub(crate) fn new() -> Self {
        Self(hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).ok())
    }

    /// The proof that a form for this principal carries.
    pub(super) fn of(&self, principal: &Principal) -> String {
        let tag = self.0.as_ref().map(|key| hmac::sign(key, &told(principal)));
        let bytes = tag.as_ref().map_or(&[][..], |tag| tag.as_ref());
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Checks the proof in this principal's form.
    pub(super) fn check(&self, principal: &Principal, given: &str) -> Result<(), Forgery> {
        let key = self.0.as_ref().ok_or(Forgery::Proof)?;
        let given = unhex(given).ok_or(Forgery::Proof)?;
        hmac::verify(key, &told(principal), &given).map_err(|_| Forgery::Proof)
    }
}

/// The principal as bytes. The anonymous principal differs from every account's name.
fn told(principal: &Principal) -> Vec<u8> {
    principal.user().map_or_else(|| b"anonymous".to_vec(), |name| format!("account {name}").into_bytes())
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

/// Whether the request is meant for this registry. The port does not matter, because mapped ports are common.
pub(super) fn check_host(registry: &LocalRegistry, settings: &RegistrySettings, head: &Parts) -> Result<(), Forgery> {
    let named = only(&head.headers, &HOST);
    let target = head.uri.authority().map(|authority| authority.as_str());
    let is_ours = |text: &str| {
        RegistryHost::parse(text, 80).is_ok_and(|host| {
            let is_known = || registry.names().iter().any(|name| **name == *host.name());
            // An address cannot be rebound, unlike a name.
            host.address().is_some() || host.name() == settings.hostname.name() || is_known()
        })
    };
    let mut told = named.into_iter().chain(target).peekable();
    let is_told = told.peek().is_some() && head.headers.get_all(HOST).iter().count() <= 1;
    if is_told && told.all(is_ours) { Ok(()) } else { Err(Forgery::Host) }
}

/// Whether no header says that the request came from a page of another origin.
pub(super) fn check_origin(head: &Parts) -> Result<(), Forgery> {
    let host = only(&head.headers, &HOST).or(head.uri.authority().map(|authority| authority.as_str()));
    let origin_is_ours = !head.headers.contains_key(ORIGIN)
        || only(&head.headers, &ORIGIN).is_some_and(|origin| {
            let own = |scheme| origin.strip_prefix(scheme).is_some_and(|rest| Some(rest) == host);
            own("http://") || own("https://")
        });
    let site_is_ours =
        !head.headers.contains_key(SEC_FETCH_SITE) || only(&head.headers, &SEC_FETCH_SITE) == Some("same-origin");
    if origin_is_ours && site_is_ours { Ok(()) } else { Err(Forgery::Origin) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(pairs: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::builder().uri("/registry/");
        for (name, value) in pairs {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_seal_is_of_one_person_and_one_process() {
        let (seal, user) = (CsrfKey::new(), |name: &str| Principal::User(name.into()));
        let people = [Principal::Anonymous, user("alice"), user("bob"), user("anonymous")];
        for one in &people {
            for other in &people {
                assert_eq!(seal.check(one, &seal.of(other)).is_ok(), one == other, "{one:?} {other:?}");
            }
            assert_eq!(CsrfKey::new().check(one, &seal.of(one)), Err(Forgery::Proof), "of another process");
        }
        for bad in ["", "0", "zz", "00", "é", &seal.of(&people[0])[2..]] {
            assert_eq!(seal.check(&people[0], bad), Err(Forgery::Proof), "{bad}");
        }
        assert_eq!(
            CsrfKey(None).check(&people[0], &CsrfKey(None).of(&people[0])),
            Err(Forgery::Proof),
            "no key, no form"
        );
    }

    #[test]
    fn pages_of_other_sites_change_nothing() {
        let host = ("host", "docker-registry.local:5000");
        for (more, ok) in [
            (&[][..], true),
            (&[("origin", "http://docker-registry.local:5000")], true),
            (&[("origin", "https://docker-registry.local:5000"), ("sec-fetch-site", "same-origin")], true),
            (&[("origin", "null")], false),
            (&[("origin", "http://docker-registry.local")], false),
            (&[("origin", "http://evil.example")], false),
            (&[("origin", "http://docker-registry.local:5000.evil.example")], false),
            (&[("origin", "http://docker-registry.local:5000"), ("origin", "http://evil.example")], false),
            (&[("sec-fetch-site", "cross-site")], false),
            (&[("sec-fetch-site", "same-site")], false),
            (&[("sec-fetch-site", "none")], false),
        ] {
            let pairs: Vec<_> = [host].iter().chain(more).copied().collect();
            assert_eq!(check_origin(&head(&pairs)).is_ok(), ok, "{more:?}");
        }
    }
}
