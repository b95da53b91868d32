//! The programs in the kernel, and the maps through which the agent writes to them and reads from them.
//!
//! `ebpf/build` builds the object, which is committed. `attach` attaches the programs. The links belong to `Ebpf`: they
//! end when it is dropped or the process ends, unless they are pinned (`pins`).

use std::collections::BTreeSet;
use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aya::maps::lpm_trie::Key;
use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, PerCpuArray};
use aya::programs::{TestRun as _, TestRunAttrs, TestRunOptions, Xdp};
use aya::{Ebpf, include_bytes_aligned};
use entrepot_ebpf_common::address::{Address, Endpoint};
use entrepot_ebpf_common::outcome::Outcome;
use entrepot_ebpf_common::settings::Settings;
use ipnet::IpNet;

use super::RedirectError;

static OBJECT: &[u8] = include_bytes_aligned!("../../../ebpf/prebuilt/entrepot.bpf.o");

/// The programs and their maps.
pub(super) struct Programs {
    ebpf: Ebpf,
    settings: Array<MapData, [u8; Settings::SIZE]>,
    healthy_until: Array<MapData, u64>,
    addresses: HashMap<MapData, Address, u64>,
    direct: HashMap<MapData, Address, u64>,
    resolvers: HashMap<MapData, Address, u32>,
    strangers: HashMap<MapData, Address, u64>,
    by_client: HashMap<MapData, [u8; Endpoint::SIZE], [u8; Endpoint::SIZE]>,
    prefixes: LpmTrie<MapData, Address, u32>,
    names: HashMap<MapData, u64, u32>,
    exempt: HashMap<MapData, u64, u32>,
    counters: PerCpuArray<MapData, u64>,
    proved: Array<MapData, u64>,
}

/// The program that sends proofs into interfaces. It is not attached to any.
const ENTRANCE: &str = "enter_gateway";

impl Programs {
    /// Loads the object, without attaching anything.
    pub(super) fn load() -> Result<Self, RedirectError> {
        let mut ebpf =
            Ebpf::load(OBJECT).map_err(|error| RedirectError::Load { program: "object", reason: chain(&error) })?;
        Ok(Self {
            settings: taken(&mut ebpf, "SETTINGS")?,
            healthy_until: taken(&mut ebpf, "HEALTHY_UNTIL")?,
            addresses: taken(&mut ebpf, "ADDRESSES")?,
            direct: taken(&mut ebpf, "DIRECT")?,
            resolvers: taken(&mut ebpf, "RESOLVERS")?,
            strangers: taken(&mut ebpf, "STRANGERS")?,
            by_client: taken(&mut ebpf, "BY_CLIENT")?,
            prefixes: taken(&mut ebpf, "PREFIXES")?,
            names: taken(&mut ebpf, "NAMES")?,
            exempt: taken(&mut ebpf, "EXEMPT")?,
            counters: taken(&mut ebpf, "COUNTERS")?,
            proved: taken(&mut ebpf, "PROVED")?,
            ebpf,
        })
    }

    pub(super) fn set_settings(&mut self, settings: &Settings) -> Result<(), RedirectError> {
        self.settings.set(0, settings.to_bytes(), 0).map_err(|error| map_error("SETTINGS", &error))
    }

    /// The time of the monotonic clock until which the door counts as healthy; zero if it does not answer.
    pub(super) fn set_healthy_until(&mut self, until_ns: u64) -> Result<(), RedirectError> {
        self.healthy_until.set(0, until_ns, 0).map_err(|error| map_error("HEALTHY_UNTIL", &error))
    }

    /// Adds an address of a listed name, until at least this time of the monotonic clock.
    pub(super) fn learn(&mut self, address: IpAddr, until_ns: u64) -> Result<(), RedirectError> {
        let key = octets(address);
        let known_ns = self.addresses.get(&key, 0).unwrap_or(0);
        self.addresses.insert(key, until_ns.max(known_ns), 0).map_err(|error| map_error("ADDRESSES", &error))
    }

    /// Makes connections to an address go to their own destination until this time of the monotonic clock.
    pub(super) fn let_pass(&mut self, address: IpAddr, until_ns: u64) -> Result<(), RedirectError> {
        self.direct.insert(octets(address), until_ns, 0).map_err(|error| map_error("DIRECT", &error))
    }

    /// The original destination of a connection that the programs redirected, by the client's end.
    pub(super) fn original_of(&self, client: SocketAddr) -> Option<IpAddr> {
        let original = self.by_client.get(&endpoint(Some(client)).to_bytes(), 0).ok()?;
        Some(IpAddr::from(Endpoint::from_bytes(original).address).to_canonical())
    }

    /// Replaces the resolvers whose answers count.
    pub(super) fn set_resolvers(&mut self, resolvers: &BTreeSet<IpAddr>) -> Result<(), RedirectError> {
        let known: BTreeSet<IpAddr> = self.resolvers().into_iter().collect();
        for gone in known.difference(resolvers) {
            self.resolvers.remove(&octets(*gone)).map_err(|error| map_error("RESOLVERS", &error))?;
        }
        for new in resolvers.difference(&known) {
            self.resolvers.insert(octets(*new), 1, 0).map_err(|error| map_error("RESOLVERS", &error))?;
        }
        Ok(())
    }

    /// The resolvers whose answers count.
    pub(super) fn resolvers(&self) -> Vec<IpAddr> {
        self.resolvers.keys().filter_map(Result::ok).map(|address| IpAddr::from(address).to_canonical()).collect()
    }

    /// The senders of answers of DNS that did not count, each with the number of these answers.
    pub(super) fn strangers(&self) -> Vec<(IpAddr, u64)> {
        listing(&self.strangers)
    }

    /// Adds a network of registries.
    pub(super) fn add_prefix(&mut self, network: IpNet) -> Result<(), RedirectError> {
        let mapped_bits = if network.addr().is_ipv4() { 96 } else { 0 };
        let key = Key::new(mapped_bits + u32::from(network.prefix_len()), octets(network.network()));
        self.prefixes.insert(&key, 1, 0).map_err(|error| map_error("PREFIXES", &error))
    }

    /// Adds a listed name, with `EXACT`, `BELOW` or both.
    pub(super) fn add_name(&mut self, hash: u64, flags: u32) -> Result<(), RedirectError> {
        self.names.insert(hash, flags, 0).map_err(|error| map_error("NAMES", &error))
    }

    /// Leaves the processes of a control group alone.
    pub(super) fn exempt(&mut self, cgroup: &Path, root: &Path) -> Result<(), RedirectError> {
        // The kernel's id of a control group is the number of its directory.
        let metadata = open_cgroup(cgroup, root)?.metadata();
        let id = metadata.map_err(|source| RedirectError::System { what: "control group's number", source })?.ino();
        self.exempt.insert(id, 1, 0).map_err(|error| map_error("EXEMPT", &error))
    }

    /// The number of connections with each outcome, in the order of [`Outcome::ALL`].
    pub(super) fn counters(&self) -> Vec<(Outcome, u64)> {
        Outcome::ALL.iter().map(|outcome| (*outcome, self.count(*outcome))).collect()
    }

    /// The number of connections with one outcome.
    pub(super) fn count(&self, outcome: Outcome) -> u64 {
        self.counters.get(&(outcome as u32), 0).map_or(0, |values| values.iter().sum())
    }

    /// Makes the entrance for proofs ready.
    pub(super) fn load_entrance(&mut self) -> Result<(), RedirectError> {
        let entrance: &mut Xdp = self.program(ENTRANCE)?;
        entrance.load().map_err(|error| RedirectError::Load { program: ENTRANCE, reason: chain(&error) })
    }

    /// Sends a frame into an interface, as if the interface had received it. Needs Linux 5.18.
    pub(super) fn send_into(&self, interface: u32, frame: &[u8]) -> Result<(), RedirectError> {
        let missing = || RedirectError::Load { program: ENTRANCE, reason: "the object does not have it".to_owned() };
        let entrance = self.ebpf.program(ENTRANCE).and_then(|program| <&Xdp>::try_from(program).ok());
        let length = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        // The kernel's `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let context: Vec<u8> = [0, length, 0, interface, 0, 0].into_iter().flat_map(u32::to_ne_bytes).collect();
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.ctx_in = Some(&context);
        options.attrs = TestRunAttrs::new().xdp_live_frames(1);
        let sent = entrance.ok_or_else(missing)?.test_run(options);
        sent.map(drop).map_err(|error| RedirectError::Proof { reason: chain(&error) })
    }

    /// The time of the last answer to the proof with this place, of the monotonic clock. Zero if there was none.
    pub(super) fn proved_ns(&self, place: u32) -> u64 {
        self.proved.get(&place, 0).unwrap_or(0)
    }

    /// The learned addresses, each with the time of the monotonic clock until which it is valid.
    pub(super) fn addresses(&self) -> Vec<(IpAddr, u64)> {
        listing(&self.addresses)
    }

    /// The addresses whose connections are let pass, each with the time of the monotonic clock until which they are.
    pub(super) fn direct(&self) -> Vec<(IpAddr, u64)> {
        listing(&self.direct)
    }

    /// A program of the object, by its name.
    pub(super) fn program<'a, P>(&'a mut self, name: &'static str) -> Result<&'a mut P, RedirectError>
    where
        &'a mut P: TryFrom<&'a mut aya::programs::Program>,
    {
        let found = self.ebpf.program_mut(name).and_then(|program| program.try_into().ok());
        found.ok_or_else(|| RedirectError::Load { program: name, reason: "the object does not have it".to_owned() })
    }
}

/// Locks what the tasks of the agent share.
pub(super) fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn listing(map: &HashMap<MapData, Address, u64>) -> Vec<(IpAddr, u64)> {
    map.iter().filter_map(Result::ok).map(|(address, value)| (IpAddr::from(address).to_canonical(), value)).collect()
}

/// A door's address in the form of the programs.
pub(super) fn endpoint(door: Option<SocketAddr>) -> Endpoint {
    door.map_or(Endpoint::NONE, |door| Endpoint::new(octets(door.ip()), door.port()))
}

fn octets(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

pub(super) fn open_cgroup(path: &Path, root: &Path) -> Result<File, RedirectError> {
    File::open(path).map_err(|source| RedirectError::Cgroup { path: path.to_owned(), root: root.to_owned(), source })
}

fn taken<M: TryFrom<Map, Error = aya::maps::MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<M, RedirectError> {
    let map =
        ebpf.take_map(name).ok_or_else(|| RedirectError::Map { map: name, reason: "it is missing".to_owned() })?;
    M::try_from(map).map_err(|error| map_error(name, &error))
}

fn map_error(map: &'static str, error: &aya::maps::MapError) -> RedirectError {
    RedirectError::Map { map, reason: chain(error) }
}

/// An error with all its sources: aya names the system call, and its source has the reason.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let reason = error.to_string();
        if !text.contains(&reason) {
            text = format!("{text}: {reason}");
        }
        source = error.source();
    }
    text
}
