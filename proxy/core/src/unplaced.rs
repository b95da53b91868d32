//! A transparent door's report to the redirect agents about connections that it could not place, because they had no
//! name. It is a field of the answer to an agent's health question ([`crate::sniff::HEALTH_HOST`]).
//!
//! A door knows the destination of a connection that was redirected on its own machine. Of others it knows the client's
//! address and port, by which the agent on the client's machine finds the destination.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// The name of the field.
pub const FIELD: &str = "Entrepot-Unplaced";
/// The most connections in one report.
pub const CONNECTIONS_MAX: usize = 32;

/// A connection without a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unplaced {
    /// By the address that it was meant to go to.
    To(IpAddr),
    /// By the client's end.
    From(SocketAddr),
}

impl fmt::Display for Unplaced {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::To(destination) => write!(formatter, "to={destination}"),
            Self::From(client) => write!(formatter, "from={client}"),
        }
    }
}

/// The field as a line of a response head; empty if there is nothing to report.
///
/// ```
/// use entrepot_core::unplaced::{Unplaced, line, read};
///
/// let told = [Unplaced::To([192, 0, 2, 1].into()), Unplaced::From(([10, 0, 0, 2], 40_000).into())];
/// assert_eq!(line(&told), "Entrepot-Unplaced: to=192.0.2.1, from=10.0.0.2:40000\r\n");
/// assert_eq!(read(&line(&told)), told);
/// ```
pub fn line(unplaced: &[Unplaced]) -> String {
    if unplaced.is_empty() {
        return String::new();
    }
    let told: Vec<String> = unplaced.iter().take(CONNECTIONS_MAX).map(ToString::to_string).collect();
    format!("{FIELD}: {}\r\n", told.join(", "))
}

/// The connections in a response head. Text that is no connection is left out.
pub fn read(head: &str) -> Vec<Unplaced> {
    let fields = head.lines().filter_map(|line| line.split_once(':'));
    let told = fields.filter(|(name, _)| name.eq_ignore_ascii_case(FIELD)).flat_map(|(_, value)| value.split(','));
    told.filter_map(|text| {
        let (kind, address) = text.trim().split_once('=')?;
        match kind {
            "to" => address.parse().ok().map(Unplaced::To),
            "from" => address.parse().ok().map(Unplaced::From),
            _ => None,
        }
    })
    .take(CONNECTIONS_MAX)
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_bounded_and_junk_is_left_out() {
        let v6 = Unplaced::From("[2001:db8::1]:443".parse().expect("an address"));
        assert_eq!(read(&format!("HTTP/1.1 204 No Content\r\n{}\r\n", line(&[v6]))), [v6]);
        for head in ["", "Entrepot-Unplaced: to=x, 192.0.2.1, of=192.0.2.1,\r\n", "Server: to=192.0.2.1\r\n"] {
            assert_eq!(read(head), [], "{head}");
        }
        let many: Vec<Unplaced> = (0..=255).map(|last| Unplaced::To([192, 0, 2, last].into())).collect();
        assert_eq!(read(&line(&many)), many[..CONNECTIONS_MAX]);
        let two = format!("{FIELD}: {}", many.iter().map(ToString::to_string).collect::<Vec<_>>().join(","));
        assert_eq!(read(&two).len(), CONNECTIONS_MAX);
        assert_eq!(line(&[]), "");
    }
}
