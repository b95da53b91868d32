//! The names whose addresses are learned, in the form of the kernel's map: a 64-bit hash of the lower-case wire form.
//!
//! A hash is enough: if a name collides with a listed one, connections to its addresses are redirected to the door, and
//! the door goes by the whole name.

/// A value of the map `NAMES`: the name itself is listed.
pub const EXACT: u32 = 1;
/// A value of the map `NAMES`: every name below this one is listed.
pub const BELOW: u32 = 2;

/// The hash of no labels, with which every hash begins.
pub const EMPTY: u64 = 0xcbf2_9ce4_8422_2325;

/// The hash of the wire form with one more byte in front. Names are read from their end, so that the hash of each of
/// their suffixes is computed on the way.
#[inline(always)]
pub const fn prepend(hash: u64, byte: u8) -> u64 {
    (hash ^ lower(byte) as u64).wrapping_mul(0x0000_0100_0000_01b3)
}

/// The byte in lower case. The length of a label is at most 63, so it is never taken for a letter.
#[inline(always)]
pub const fn lower(byte: u8) -> u8 {
    if byte.is_ascii_uppercase() { byte | 0x20 } else { byte }
}

/// The hash of a name as text, without a dot at its end.
pub fn hash(name: &str) -> u64 {
    name.rsplit('.').fold(EMPTY, |hash, label| {
        let hash = label.bytes().rev().fold(hash, prepend);
        // A label of a valid name has at most 63 bytes.
        prepend(hash, label.len() as u8)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_does_not_matter_but_labels_do() {
        assert_eq!(hash("GHCR.io"), hash("ghcr.io"));
        let names = ["ghcr.io", "io", "ghcrio", "g.hcr.io", "ghcr.i.o", "io.ghcr", "ghcr.io.ghcr.io"];
        for (index, name) in names.iter().enumerate() {
            assert!(names[..index].iter().all(|other| hash(other) != hash(name)), "{name}");
        }
    }
}
