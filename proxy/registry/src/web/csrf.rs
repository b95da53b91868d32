//! The proof in forms: only a person who looks at one of our pages may make changes there.
//!
//! A page of another site can post a form here with the visitor's browser (request forgery). Browsers send a stored
//! name and password, and a machine's network address, with any site's requests. Neither can be prevented (`SameSite`
//! is for cookies, and there are none). So a form needs, besides what every change from a browser needs
//! ([`crate::forgery`]), the proof that is on the page with the form, which no other site can read. The proof is for one
//! account and one run of the process. The proof of one account, or of a visitor without one, is refused for another
//! account.

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;

use crate::access::Principal;
use crate::forgery::Forgery;

/// Makes the proofs in forms, and recognises them.
pub struct CsrfKey(Option<hmac::Key>);

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

#[cfg(test)]
mod tests {
    use super::*;

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
}
