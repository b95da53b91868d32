//! A name server of the test internet, over UDP. It knows the names of [`crate::world::HOSTS`], and any number of names
//! below
//! `pkg.dev`, each with a new address.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::UdpSocket;

use crate::namespace::Namespace;
use crate::world::HOSTS;

/// The server's address in the internet.
pub const NAME_SERVER: &str = "10.90.2.30:53";

/// Answers until the namespace ends.
pub fn serve(internet: &Namespace) {
    serve_at(internet, NAME_SERVER);
}

/// Answers at this address until the namespace ends.
pub fn serve_at(namespace: &Namespace, address: &str) {
    let address: SocketAddr = address.parse().expect("an address");
    let socket = namespace.wait(async move { UdpSocket::bind(address).await }).expect("the name server's address");
    namespace.handle().spawn(async move {
        let mut question = [0; 512];
        while let Ok((length, peer)) = socket.recv_from(&mut question).await {
            let _ = socket.send_to(&answer(&question[..length]), peer).await;
        }
    });
}

/// The name number `number` of the burst.
pub fn burst_name(number: u16) -> String {
    format!("n{number}.burst.pkg.dev")
}

/// A query for the IPv4 addresses of `name`.
pub fn query(id: u16, name: &str) -> Vec<u8> {
    let mut wire = id.to_be_bytes().to_vec();
    wire.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        wire.push(u8::try_from(label.len()).expect("a label"));
        wire.extend(label.bytes());
    }
    wire.extend([0, 0, 1, 0, 1]);
    wire
}

/// The address in an answer of this server. The one record is at its end.
pub fn address_in(answer: &[u8]) -> Option<Ipv4Addr> {
    let records = u16::from_be_bytes([*answer.get(6)?, *answer.get(7)?]);
    let octets: [u8; 4] = answer[answer.len().checked_sub(4)?..].try_into().ok()?;
    (records > 0).then(|| Ipv4Addr::from(octets))
}

/// An alias and its address, with compressed names, as large providers answer.
pub fn answer(query: &[u8]) -> Vec<u8> {
    let Some((name, end)) = name_in(query) else { return Vec::new() };
    let wants_v4 = query.get(end..end + 2) == Some(&[0, 1][..]);
    let mut wire = query[..end + 4].to_vec();
    (wire[2], wire[3]) = (0x81, 0x80);
    (wire[8], wire[9], wire[10], wire[11]) = (0, 0, 0, 0);
    match address_of(&name).filter(|_| wants_v4) {
        None => (wire[6], wire[7]) = (0, 0),
        Some(address) => {
            (wire[6], wire[7]) = (0, 2);
            wire.extend([0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 60, 0, 7, 4, b'e', b'd', b'g', b'e', 0xc0, 12]);
            let alias = u8::try_from(end + 4 + 12).expect("a short name");
            wire.extend([0xc0, alias, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
            wire.extend(address.octets());
        }
    }
    wire
}

fn name_in(query: &[u8]) -> Option<(String, usize)> {
    let (mut labels, mut at) = (Vec::new(), 12);
    loop {
        let length = usize::from(*query.get(at)?);
        if length == 0 {
            return Some((labels.join("."), at + 1));
        }
        labels.push(String::from_utf8_lossy(query.get(at + 1..at + 1 + length)?).to_lowercase());
        at += 1 + length;
    }
}

fn address_of(name: &str) -> Option<Ipv4Addr> {
    if let Some(number) =
        name.strip_suffix(".burst.pkg.dev").and_then(|name| name.strip_prefix('n')?.parse::<u16>().ok())
    {
        let [high, low] = number.to_be_bytes();
        return Some(Ipv4Addr::new(198, 18, high, low));
    }
    HOSTS.iter().find(|(known, _)| *known == name)?.1.parse().ok()
}
