//! The text of the appliance's console: its name, its addresses, the CA's fingerprint and the one line for clients,
//! beside a QR code. It fits the smallest console, 25 rows of 80 characters.
//!
//! Pure. getty prints the text above its prompt; `entrepot discover --console` keeps it up to date. `landing` shows the
//! same as a web page. Everything is printable ASCII except the blocks of the QR code. There is no backslash, which
//! getty would expand.

use std::net::{IpAddr, SocketAddr};

use entrepot_core::quantity::Size;

use super::landing::{compact_code, link};
use crate::discovery::facts::Facts;
use crate::first_line::first_line;

/// The state of this machine.
pub struct Console {
    pub server: Server,
    /// The addresses on the local network, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// None if the data disk has room.
    pub short: Option<Short>,
}

/// The server on this machine.
pub enum Server {
    /// The server answers. `host` is the announced name.
    Up { facts: Facts, host: Option<String> },
    /// The server does not answer on this port.
    Down { port: u16 },
}

/// A file system with too little room.
pub struct Short {
    pub free: Size,
    /// The least that should be free.
    pub wanted: Size,
}

pub fn text(console: &Console) -> String {
    let address = console.addresses.first();
    let mut below = troubles(console);
    let Server::Up { facts, host } = &console.server else {
        return framed("", &["entrepot".to_owned()], &below);
    };
    let lines = about(facts, host.as_deref(), &console.addresses);
    let Some(address) = address else { return framed("", &lines, &below) };
    let at = format!("http://{}/", SocketAddr::new(*address, facts.proxy_port));
    let line = first_line(facts, &SocketAddr::new(*address, facts.proxy_port).to_string(), "docker");
    below.splice(0..0, [line.fetch, format!("  {}", line.run)]);
    framed(&compact_code(&link(&at, &facts.ca_sha256)), &lines, &below)
}

/// The lines beside the QR code.
fn about(facts: &Facts, host: Option<&str>, addresses: &[IpAddr]) -> Vec<String> {
    let name = host.unwrap_or("not announced by mDNS");
    let mut lines = vec![format!("entrepot {}", facts.version), String::new(), name.to_owned()];
    // More addresses would leave no room for the rest.
    lines.extend(addresses.iter().take(4).map(ToString::to_string));
    lines.push(String::new());
    lines.push("CA, SHA-256".to_owned());
    lines.extend(facts.ca_sha256.as_bytes().chunks(32).map(|digits| String::from_utf8_lossy(digits).into_owned()));
    lines.push(String::new());
    lines.push(format!("proxy     port {}", facts.proxy_port));
    let doors = [facts.registry_http_port, facts.registry_https_port];
    let doors: Vec<_> = doors.iter().flatten().map(ToString::to_string).collect();
    if !doors.is_empty() {
        lines.push(format!("registry  port {}", doors.join(", ")));
    }
    lines.push("The code leads to its web page.".to_owned());
    lines.push(String::new());
    lines.push("For Docker hosts, in one line:".to_owned());
    lines
}

fn troubles(console: &Console) -> Vec<String> {
    let mut lines = Vec::new();
    if let Server::Down { port } = console.server {
        lines.push(format!("entrepot does not answer on port {port}: journalctl -u entrepot says why."));
    }
    if console.addresses.is_empty() {
        lines.push("No network: no interface has an address. Is a cable in, does DHCP answer?".to_owned());
    }
    if let Some(Short { free, wanted }) = &console.short {
        lines.push(format!("The disk is full: {free} free, not {wanted}. Pulls pass uncached; enlarge the disk."));
    }
    lines
}

/// `lines` to the right of `code`, and `below` under both.
fn framed(code: &str, lines: &[String], below: &[String]) -> String {
    let code: Vec<&str> = code.lines().collect();
    let margin = code.first().map_or(0, |row| row.chars().count() + 1);
    let mut text = String::new();
    for row in 0..code.len().max(lines.len()) {
        let left = code.get(row).copied().unwrap_or_default();
        let right = lines.get(row).map_or("", String::as_str);
        let gap = " ".repeat(margin - left.chars().count());
        text.push_str(format!("{left}{gap}{right}").trim_end());
        text.push('\n');
    }
    for line in below {
        text.push_str(line);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDTH: usize = 80;

    fn up(addresses: &[&str]) -> Console {
        let own_key = Some(format!("sha256//{}=", "k".repeat(43)));
        let facts = Facts { registry_http_port: Some(80), own_key, ..Facts::new(3128, &"0123456789abcdef".repeat(4)) };
        let host = Some("docker-registry-2.local".to_owned());
        let addresses = addresses.iter().map(|text| text.parse().expect("an address")).collect();
        Console { server: Server::Up { facts, host }, addresses, short: None }
    }

    #[test]
    fn all_of_it_fits_the_smallest_console() {
        let text = text(&up(&["192.168.100.200", "2001:db8:1234:5678:9abc:def0:1234:5678", "fd00::5", "fd00::6"]));
        for part in [
            "docker-registry-2.local",
            "192.168.100.200",
            "fd00::6",
            "0123456789abcdef0123456789abcdef\n",
            &format!("curl -k --pinnedpubkey sha256//{}=\n", "k".repeat(43)),
            "  https://192.168.100.200:3128/setup/docker | sudo sh",
            "registry  port 80",
        ] {
            assert!(text.contains(part), "{part} is missing:\n{text}");
        }
        // getty adds a line and the prompt.
        assert!(text.lines().count() <= 23, "{}:\n{text}", text.lines().count());
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        assert!(text.contains('█') && !text.contains('\\'), "{text}");
    }

    #[test]
    fn an_address_of_ipv6_only_is_written_as_urls_have_it() {
        assert!(text(&up(&["fd00::5"])).contains("  https://[fd00::5]:3128/setup/docker | sudo sh"));
        let longest = text(&up(&["2001:db8:1234:5678:9abc:def0:1234:5678"]));
        assert!(longest.lines().rev().take(2).all(|line| line.chars().count() <= WIDTH), "{longest}");
    }

    #[test]
    fn each_trouble_has_one_line() {
        let nowhere = text(&up(&[]));
        assert!(
            nowhere.contains("No network") && !nowhere.contains("curl") && nowhere.contains("01234567"),
            "{nowhere}"
        );
        let (free, wanted) = (Size(1 << 20), Size(1 << 30));
        let full = text(&Console { short: Some(Short { free, wanted }), ..up(&["192.0.2.1"]) });
        assert!(full.contains("The disk is full: 1m free, not 1g"), "{full}");
        let down = Console { server: Server::Down { port: 3128 }, addresses: Vec::new(), short: None };
        let down = text(&down);
        assert!(down.contains("does not answer on port 3128") && down.contains("No network"), "{down}");
        for text in [nowhere, full, down] {
            assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        }
    }
}
