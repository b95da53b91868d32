//! Proofs that a gateway's packets arrive: the agent sends the first segment of a connection of its own into an
//! interface, as if a client had sent it, and the door's answer is seen on its way out. The answer goes no further.
//!
//! Proofs are told from clients' connections by their destination and their source port, which is below 1024: clients
//! choose theirs above.

use crate::address::{Address, Endpoint, unmapped};

/// The most interfaces with proofs.
pub const PROOFS_MAX: u32 = 16;

/// The destinations and source ports of an agent's proofs, in the memory layout of the programs.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Proofs {
    /// The destination of proofs by IPv4.
    pub v4: Endpoint,
    /// The destination of proofs by IPv6.
    pub v6: Endpoint,
    /// The source port of the first interface's proofs. Others follow it.
    pub first_port: u32,
    /// The number of interfaces with proofs.
    pub count: u32,
}

impl Proofs {
    /// The size in bytes.
    pub const SIZE: usize = size_of::<Self>();
    /// No proofs.
    pub const NONE: Self = Self { v4: Endpoint::NONE, v6: Endpoint::NONE, first_port: 0, count: 0 };

    /// The place in the map `PROVED` of the proof between these ends. None if a segment between them is no proof's.
    #[inline(always)]
    pub fn place(&self, source_port: u16, destination: &Endpoint) -> Option<u32> {
        let is_v4 = unmapped(&destination.address).is_some();
        let proof = if is_v4 { &self.v4 } else { &self.v6 };
        if !proof.exists() || destination.port != proof.port || !are_equal(&destination.address, &proof.address) {
            return None;
        }
        let number = u32::from(source_port).wrapping_sub(self.first_port);
        if number < self.count && number < PROOFS_MAX { Some(place(number, is_v4)) } else { None }
    }
}

/// The place in the map `PROVED` of an interface's proof, by the interface's number.
#[inline(always)]
pub const fn place(number: u32, is_v4: bool) -> u32 {
    2 * number + !is_v4 as u32
}

#[inline(always)]
fn are_equal(one: &Address, other: &Address) -> bool {
    u128::from_ne_bytes(*one) == u128::from_ne_bytes(*other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::mapped;

    #[test]
    fn only_the_destination_and_the_ports_of_a_proof_are_a_proofs() {
        let v4 = Endpoint::new(mapped([192, 0, 2, 7]), 443);
        let v6 = Endpoint::new([0x20; 16], 443);
        let proofs = Proofs { v4, v6, first_port: 40_000, count: PROOFS_MAX };
        assert_eq!(proofs.place(40_000, &v4), Some(0));
        assert_eq!(proofs.place(40_000, &v6), Some(1));
        assert_eq!(proofs.place(40_015, &v6), Some(31));
        for (port, destination) in [
            (39_999, v4),
            (40_016, v4),
            (40_000, Endpoint::new(v4.address, 80)),
            (40_000, Endpoint::new(mapped([192, 0, 2, 8]), 443)),
            (40_000, Endpoint::NONE),
        ] {
            assert_eq!(proofs.place(port, &destination), None, "{port} {destination:?}");
        }
        assert_eq!(Proofs { count: 1, ..proofs }.place(40_001, &v4), None);
        assert_eq!(Proofs::NONE.place(0, &Endpoint::NONE), None);
    }
}
