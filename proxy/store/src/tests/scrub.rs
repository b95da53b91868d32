//! The scrub over a whole store: what rotted is found, and a restart goes on where it was.

use std::collections::BTreeSet;

use super::*;
use crate::Scrubbed;
use crate::paths::Paths;

/// Steps to the end of the round. Returns how many blobs were compared.
fn round(store: &Store) -> usize {
    let mut compared = 0;
    while let Scrubbed::Compared(_) = done(store.scrub.step()).unwrap() {
        compared += 1;
    }
    compared
}

#[test]
fn a_round_finds_what_rotted() {
    let world = World::new(PLENTY);
    let paths = Paths::new(world.dir.path());
    let sizes = [0, 1, 5000, (1 << 20) + 1, 3 << 20];
    let digests: Vec<_> = (0..).zip(sizes).map(|(seed, size)| put(&world.store, seed, size)).collect();
    let pushed: BTreeSet<_> = digests[1..4].iter().copied().collect();
    for digest in &pushed {
        assert!(done(world.store.repositories.at(&"app".parse().unwrap()).link(digest)).unwrap());
    }
    assert_eq!(round(&world.store), digests.len());
    assert_eq!(world.store.usage().quarantined, 0);
    let rotten = [digests[2], digests[3], digests[4]];
    for digest in rotten {
        let mut bytes = std::fs::read(paths.blob(&digest)).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(paths.blob(&digest), bytes).unwrap();
    }
    assert_eq!(round(&world.store), digests.len());
    for digest in &digests {
        let is_bad = rotten.contains(digest);
        assert_eq!(done(world.store.blobs.contains(digest)), !is_bad, "{digest}");
        assert_eq!(paths.aside(digest).exists(), is_bad && pushed.contains(digest), "{digest}");
    }
    assert_eq!(round(&world.store), digests.len() - rotten.len(), "and again");
    assert!(!paths.scrub().exists(), "a round that ended leaves no note");
}

#[test]
fn a_restart_goes_on_where_it_was() {
    let world = World::new(PLENTY);
    for seed in 0..10 {
        put(&world.store, seed, 100);
    }
    assert!(matches!(done(world.store.scrub.step()).unwrap(), Scrubbed::Compared(100)));
    let world = world.restarted();
    assert_eq!(round(&world.store), 9);
    let paths = Paths::new(world.dir.path());
    for nonsense in [b"".as_slice(), b"sha256:zz", &[0xff; 10]] {
        std::fs::write(paths.scrub(), nonsense).unwrap();
        let again = World { store: world.store.clone(), dir: TempDir::new().unwrap() };
        assert_eq!(round(&again.store), 10, "a note that says nothing costs nothing");
    }
}
