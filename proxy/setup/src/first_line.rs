//! The line that joins a host without this program to an appliance, as the console, the server's greeting and the page
//! show it.
//!
//! curl checks the key of the appliance's own name, which the line has in it, in place of a certificate that the host
//! could not know yet. So nobody on the way can change the script, and the script checks the CA's fingerprint.

use std::fmt;

use crate::discovery::facts::Facts;

/// The line, in two parts that fit a narrow screen.
pub struct FirstLine {
    /// The command that fetches.
    pub fetch: String,
    /// The address, and the shell that runs what is there.
    pub run: String,
}

/// The line for a script below `/setup/`; `authority` is the proxy's host and port. An appliance of an earlier release
/// has no key of its own and gets the plain line.
pub fn first_line(facts: &Facts, authority: &str, script: &str) -> FirstLine {
    match &facts.own_key {
        Some(pin) => FirstLine {
            fetch: format!("curl -k --pinnedpubkey {pin}"),
            run: format!("https://{authority}/setup/{script} | sudo sh"),
        },
        None => {
            FirstLine { fetch: "curl -fsS".to_owned(), run: format!("http://{authority}/setup/{script} | sudo sh") }
        }
    }
}

impl fmt::Display for FirstLine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.fetch, self.run)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_in_the_line() {
        let plain = Facts::new(3128, "ab");
        let expected = "curl -fsS http://192.0.2.1:3128/setup/k3s | sudo sh";
        assert_eq!(first_line(&plain, "192.0.2.1:3128", "k3s").to_string(), expected);
        let facts = Facts { own_key: Some("sha256//AAAA".to_owned()), ..plain };
        let expected = "curl -k --pinnedpubkey sha256//AAAA https://192.0.2.1:3128/setup/docker | sudo sh";
        assert_eq!(first_line(&facts, "192.0.2.1:3128", "docker").to_string(), expected);
    }
}
