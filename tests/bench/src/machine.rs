//! The kernel's figures about processes and the machine: processor time, memory, the page cache.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use serde_json::{Value, json};

use crate::BoxError;

/// The kernel's unit in /proc/PID/stat (USER_HZ), 100 on every Linux that this runs on.
const TICKS_PER_SECOND: f64 = 100.0;
const MIB_IN_KIB: f64 = 1024.0;

/// A process's resident memory.
#[derive(Clone, Copy, Default)]
pub(crate) struct Memory {
    /// What the process made: anonymous and shared memory.
    pub(crate) own_mib: f64,
    /// Pages of mapped files, which the kernel takes back as it likes.
    pub(crate) file_mib: f64,
}

/// User and system time of a process and all its descendants, dead threads included.
pub(crate) fn cpu_seconds(root: u32) -> Result<f64, BoxError> {
    let mut parents = HashMap::new();
    let mut ticks = HashMap::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // A process may end between listing and reading.
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let Some((_, rest)) = stat.rsplit_once(") ") else { continue };
        let fields: Vec<&str> = rest.split(' ').collect();
        let number = |index: usize| fields.get(index).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        parents.insert(pid, number(1) as u32);
        ticks.insert(pid, number(11) + number(12));
    }
    if !ticks.contains_key(&root) {
        return Err(format!("the server (process {root}) has ended; its log is beside its data").into());
    }
    let is_descendant = |mut pid: u32| loop {
        match (pid == root, parents.get(&pid)) {
            (true, _) => return true,
            (false, Some(parent)) if *parent != pid => pid = *parent,
            _ => return false,
        }
    };
    let sum: u64 = ticks.iter().filter(|(pid, _)| is_descendant(**pid)).map(|(_, ticks)| ticks).sum();
    Ok(sum as f64 / TICKS_PER_SECOND)
}

/// User and system time of this process alone, the registry's threads included.
pub(crate) fn own_cpu_seconds() -> Result<f64, BoxError> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let seconds = |time: TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}

/// A process's resident memory now.
pub(crate) fn memory(pid: u32) -> Result<Memory, BoxError> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
        kib.ok_or_else(|| format!("/proc/{pid}/status has no {name}"))
    };
    let own = field("RssAnon:")? + field("RssShmem:")?;
    Ok(Memory { own_mib: own / MIB_IN_KIB, file_mib: field("RssFile:")? / MIB_IN_KIB })
}

/// Drops files below `directory` from the page cache, as far as they are written: those of at least so many bytes.
pub(crate) fn forget_pages(directory: &Path, from_bytes: u64) -> Result<(), BoxError> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            forget_pages(&entry.path(), from_bytes)?;
        } else if entry.metadata()?.len() >= from_bytes {
            let file = File::open(entry.path())?;
            posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
        }
    }
    Ok(())
}

/// The one-minute load average: how much else was going on.
pub(crate) fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or(0.0)
}

/// The machine and the programs, for the results.
pub(crate) fn description(entrepot: &Path) -> Value {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = memory.lines().next().and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
    json!({
        "cores": cores(),
        "cpu": cpu.map_or("unknown", |(_, name)| name),
        "memory_gib": memory.map(|kib| (kib / MIB_IN_KIB / MIB_IN_KIB).round()),
        "kernel": said("uname", &["-sr"]),
        "date": said("date", &["-u", "+%F %H:%M UTC"]),
        "nginx": said("nginx", &["-v"]),
        "entrepot": said(&entrepot.to_string_lossy(), &["--version"]),
        "commit": said("git", &["describe", "--always", "--dirty"]),
        "load_average_before": load_average(),
    })
}

/// How many cores there are.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The first line that a program says.
fn said(program: &str, arguments: &[&str]) -> String {
    let Ok(output) = Command::new(program).args(arguments).output() else { return "unknown".to_owned() };
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).lines().next().unwrap_or("unknown").to_owned()
}
