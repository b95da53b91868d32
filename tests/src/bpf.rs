//! The kernel objects that a process has loaded: programs, maps and links, known by their numbers. So a test can tell
//! whether they are gone after the process, whatever other tests have loaded.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use aya::maps::loaded_maps;
use aya::programs::{loaded_links, loaded_programs};

/// A kind of object, by its name in /proc/PID/fdinfo, and a function that lists all objects of the machine.
type Kind = (&'static str, fn() -> BTreeSet<u32>);

/// An object that vanishes while it is read counts as gone.
const KINDS: [Kind; 3] = [
    ("prog_id:", || loaded_programs().flatten().map(|program| program.id()).collect()),
    ("map_id:", || loaded_maps().flatten().map(|map| map.id()).collect()),
    ("link_id:", || loaded_links().flatten().map(|link| link.id()).collect()),
];

/// The kernel frees objects a moment after their last user.
const FREED: Duration = Duration::from_secs(30);

/// Objects of each kind.
pub struct Loaded([BTreeSet<u32>; 3]);

impl Loaded {
    /// The objects that a process holds now. Asserts that there are programs, maps and links.
    pub fn by(pid: i32) -> Self {
        let folder = format!("/proc/{pid}/fdinfo");
        let files = std::fs::read_dir(folder).expect("the process's descriptors").flatten();
        let texts: Vec<_> = files.filter_map(|file| std::fs::read_to_string(file.path()).ok()).collect();
        let held = KINDS.map(|(name, _)| {
            let lines = texts.iter().flat_map(|text| text.lines());
            let held: BTreeSet<u32> = lines.filter_map(|line| line.strip_prefix(name)?.trim().parse().ok()).collect();
            assert!(!held.is_empty(), "the process holds no {name}");
            held
        });
        let loaded = Self(held);
        assert!(loaded.left().iter().all(|left| !left.is_empty()), "the kernel lists what the process holds");
        loaded
    }

    /// Waits until the kernel has none of these objects.
    #[track_caller]
    pub fn wait_gone(&self) {
        let deadline = Instant::now() + FREED;
        loop {
            let left = self.left();
            if left.iter().all(BTreeSet::is_empty) {
                return;
            }
            assert!(Instant::now() < deadline, "programs, maps and links that stayed: {left:?}");
            std::thread::yield_now();
        }
    }

    fn left(&self) -> [BTreeSet<u32>; 3] {
        let now = KINDS.map(|(_, all)| all());
        std::array::from_fn(|kind| self.0[kind].intersection(&now[kind]).copied().collect())
    }
}
