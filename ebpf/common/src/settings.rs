//! The settings from the loader to the programs: the address of the door, the ports that are redirected.

use core::mem::offset_of;

use crate::address::{Address, Endpoint};
use crate::proof::Proofs;

/// The most ports that can be redirected.
pub const PORTS_MAX: usize = 16;

/// The only entry of the map `SETTINGS`, in the memory layout of the programs ([`Settings::to_bytes`] writes it).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// The network namespace of the agent and its clients; zero means the machine's first one.
    pub netns_cookie: u64,
    /// The door for IPv4 destinations.
    pub door_v4: Endpoint,
    /// The door for IPv6 destinations.
    pub door_v6: Endpoint,
    /// The agent's own connections, by which it proves that packets arrive at the door.
    pub proofs: Proofs,
    /// The mark of entrepot's own sockets, which are never redirected.
    pub own_mark: u32,
    /// The mark that the gateway's routing rule looks for.
    pub route_mark: u32,
    /// The ports that are redirected; unused places are zero.
    pub ports: [u16; PORTS_MAX],
    /// One if the door is on this machine, so that its listening socket can be looked up.
    pub is_local: u32,
    /// One if connections are redirected whether or not the door answers.
    pub enforce: u32,
}

impl Settings {
    /// The size in bytes.
    pub const SIZE: usize = size_of::<Self>();

    /// Whether `port` is redirected.
    #[inline(always)]
    pub fn has_port(&self, port: u16) -> bool {
        let mut index = 0;
        while index < PORTS_MAX {
            if self.ports[index] == port {
                return port != 0;
            }
            index += 1;
        }
        false
    }

    /// The bytes as the programs read them.
    pub fn to_bytes(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        let mut put = |offset: usize, field: &[u8]| bytes[offset..offset + field.len()].copy_from_slice(field);
        put(offset_of!(Self, netns_cookie), &self.netns_cookie.to_ne_bytes());
        let proofs = offset_of!(Self, proofs);
        for (offset, end) in [
            (offset_of!(Self, door_v4), &self.door_v4),
            (offset_of!(Self, door_v6), &self.door_v6),
            (proofs + offset_of!(Proofs, v4), &self.proofs.v4),
            (proofs + offset_of!(Proofs, v6), &self.proofs.v6),
        ] {
            put(offset, &end.to_bytes());
        }
        put(proofs + offset_of!(Proofs, first_port), &self.proofs.first_port.to_ne_bytes());
        put(proofs + offset_of!(Proofs, count), &self.proofs.count.to_ne_bytes());
        put(offset_of!(Self, own_mark), &self.own_mark.to_ne_bytes());
        put(offset_of!(Self, route_mark), &self.route_mark.to_ne_bytes());
        for (index, port) in self.ports.iter().enumerate() {
            put(offset_of!(Self, ports) + index * size_of::<u16>(), &port.to_ne_bytes());
        }
        put(offset_of!(Self, is_local), &self.is_local.to_ne_bytes());
        put(offset_of!(Self, enforce), &self.enforce.to_ne_bytes());
        bytes
    }

    /// The door for this destination's family.
    #[inline(always)]
    pub fn door_for(&self, destination: &Address) -> &Endpoint {
        if crate::address::unmapped(destination).is_some() { &self.door_v4 } else { &self.door_v6 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::mapped;

    #[test]
    fn every_byte_is_a_field() {
        let fields = 8 + 2 * size_of::<Endpoint>() + Proofs::SIZE + 4 + 4 + 2 * PORTS_MAX + 4 + 4;
        assert_eq!((Settings::SIZE, size_of::<Endpoint>(), Proofs::SIZE), (fields, 20, 48), "no padding between");
        let mut ports = [0; PORTS_MAX];
        ports[..2].copy_from_slice(&[443, 5000]);
        let settings = Settings {
            netns_cookie: 0x0102_0304_0506_0708,
            door_v4: Endpoint::new(mapped([127, 0, 0, 1]), 3129),
            door_v6: Endpoint::NONE,
            proofs: Proofs {
                v4: Endpoint::new(mapped([192, 0, 2, 1]), 443),
                v6: Endpoint::NONE,
                first_port: 40_000,
                count: 1,
            },
            own_mark: 7,
            route_mark: 9,
            ports,
            is_local: 1,
            enforce: 0,
        };
        let bytes = settings.to_bytes();
        assert_eq!(bytes[..8], settings.netns_cookie.to_ne_bytes());
        assert_eq!(bytes[8..24], mapped([127, 0, 0, 1]));
        assert_eq!(bytes[24..26], 3129u16.to_ne_bytes());
        assert_eq!(bytes[48..64], mapped([192, 0, 2, 1]));
        assert_eq!(bytes[88..96], [40_000u32.to_ne_bytes(), 1u32.to_ne_bytes()].concat());
        assert_eq!(bytes[Settings::SIZE - 8..Settings::SIZE - 4], 1u32.to_ne_bytes());
        assert!(settings.has_port(443) && settings.has_port(5000) && !settings.has_port(80) && !settings.has_port(0));
        assert!(settings.door_for(&mapped([8, 8, 8, 8])).exists() && !settings.door_for(&[1; 16]).exists());
    }
}
