//! Parses the `Authorization` of a request (RFC 7617, RFC 6750). Strict: an ambiguous value is unreadable.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use entrepot_core::secret::Secret;

/// The login of a request.
pub(super) enum Login {
    None,
    Basic { name: String, password: Secret },
    Bearer(Secret),
    Unreadable,
}

impl Login {
    pub(super) fn read(authorization: Option<&Secret>) -> Self {
        match authorization {
            None => Self::None,
            Some(value) => Self::parse(value.expose()).unwrap_or(Self::Unreadable),
        }
    }

    fn parse(value: &str) -> Option<Self> {
        let (scheme, given) = value.split_once(' ')?;
        let given = given.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            return Some(Self::Bearer(Secret::new(given)));
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let text = String::from_utf8(STANDARD.decode(given).ok()?).ok()?;
        let (name, password) = text.split_once(':')?;
        Some(Self::Basic { name: name.to_owned(), password: Secret::new(password) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_are_read_strictly() {
        for bad in ["", "Basic", "Basic %%%", "Basic YQ==", "Digest YTpi", "YTpi", "Basic gICA"] {
            assert!(matches!(Login::read(Some(&Secret::new(bad))), Login::Unreadable), "{bad}");
        }
        let Login::Basic { name, password } = Login::read(Some(&Secret::new("bAsIc YTpiOmM="))) else {
            panic!("a login")
        };
        assert_eq!((name.as_str(), password.expose()), ("a", "b:c"));
        let Login::Bearer(token) = Login::read(Some(&Secret::new("bearer  x.y.z "))) else { panic!("a token") };
        assert_eq!(token.expose(), "x.y.z");
        assert!(matches!(Login::read(None), Login::None));
    }
}
