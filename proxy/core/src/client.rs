//! Clients as bounds count them: an IPv4 client by its address, an IPv6 client by its /64.
//!
//! A host of IPv6 chooses freely among the 2^64 addresses of its network (RFC 7217, RFC 8981), so an address alone would
//! bound nothing. Every bound for each client counts by [`ClientKey`]: connections, name lookups, uploads, bodies that
//! are held. A table of them never has more entries than there are shares in use.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// The network that a client is counted by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ClientKey(IpAddr);

/// The bits of an IPv6 address that its host does not choose.
const NETWORK_BITS: u32 = 64;

impl ClientKey {
    /// The key of the client at this address. An IPv4 address that IPv6 contains (`::ffff:192.0.2.1`) counts as itself.
    pub fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> NETWORK_BITS << NETWORK_BITS).into(),
        })
    }
}

impl From<IpAddr> for ClientKey {
    fn from(address: IpAddr) -> Self {
        Self::of(address)
    }
}

impl fmt::Display for ClientKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(address) => write!(out, "{address}"),
            IpAddr::V6(network) => write!(out, "{network}/{NETWORK_BITS}"),
        }
    }
}

/// The bound on one kind of things that each client may have at once. Clones share the count.
#[derive(Clone)]
pub struct ClientShares {
    each_max: u64,
    in_use: Arc<Mutex<HashMap<ClientKey, u64>>>,
}

/// A part of a client's bound that is in use. It is given back when it is dropped.
pub struct ClientShare {
    client: ClientKey,
    amount: u64,
    shares: ClientShares,
}

impl ClientShares {
    /// At most `each_max` for each client.
    pub fn new(each_max: u64) -> Self {
        Self { each_max, in_use: Arc::default() }
    }

    /// Takes this much for a client. None if the client would have too much then.
    pub fn take(&self, client: ClientKey, amount: u64) -> Option<ClientShare> {
        self.add(client, amount).then(|| ClientShare { client, amount, shares: self.clone() })
    }

    /// The number of clients that have anything.
    pub fn clients(&self) -> usize {
        self.table().len()
    }

    fn add(&self, client: ClientKey, amount: u64) -> bool {
        let mut table = self.table();
        let before = table.get(&client).copied().unwrap_or(0);
        match before.checked_add(amount).filter(|after| *after <= self.each_max) {
            Some(after) => {
                table.insert(client, after);
                true
            }
            None => false,
        }
    }

    fn give_back(&self, client: ClientKey, amount: u64) {
        if let Entry::Occupied(mut entry) = self.table().entry(client) {
            *entry.get_mut() = entry.get().saturating_sub(amount);
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }

    fn table(&self) -> std::sync::MutexGuard<'_, HashMap<ClientKey, u64>> {
        self.in_use.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientShare {
    /// The client that it was taken for.
    pub fn client(&self) -> ClientKey {
        self.client
    }

    /// Takes more for the same client. False, and nothing is taken, if the client would have too much then.
    pub fn grow(&mut self, amount: u64) -> bool {
        let grown = self.shares.add(self.client, amount);
        if grown {
            self.amount += amount;
        }
        grown
    }
}

impl Drop for ClientShare {
    fn drop(&mut self) {
        self.shares.give_back(self.client, self.amount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(address: &str) -> ClientKey {
        ClientKey::of(address.parse().expect(address))
    }

    #[test]
    fn ipv4_counts_by_address_and_ipv6_by_its_network() {
        for (address, shown) in [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
            ("2001:db8:1:2:ffff:ffff:ffff:ffff", "2001:db8:1:2::/64"),
            ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
            ("fe80::1", "fe80::/64"),
            ("::1", "::/64"),
        ] {
            assert_eq!(key(address).to_string(), shown, "{address}");
        }
        assert_eq!(key("2001:db8:1:2::1"), key("2001:db8:1:2:a:b:c:d"));
        assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
    }

    #[test]
    fn a_client_has_its_share_and_no_more_and_nothing_is_left_behind() {
        let shares = ClientShares::new(3);
        let mut first = shares.take(key("2001:db8::1"), 1).expect("a share");
        assert!(first.grow(1));
        assert!(!first.grow(2) && shares.take(key("2001:db8::2"), 2).is_none(), "the same network");
        let other = shares.take(key("2001:db8:0:1::1"), 3).expect("another network");
        let rest = shares.take(key("2001:db8::2"), 1).expect("the last of three");
        assert_eq!(shares.clients(), 2);
        drop((first, other, rest));
        assert_eq!(shares.clients(), 0);
        assert!(shares.take(key("2001:db8::1"), u64::MAX).is_none());
        assert_eq!(shares.clients(), 0, "a refusal leaves no entry");
    }
}
