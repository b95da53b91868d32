//! Checks the rights of the process and the version of the kernel, for a better message than the kernel's error number.

use std::path::{Path, PathBuf};

use nix::sys::utsname::uname;

use super::RedirectError;
use super::plan::Mode;

/// Bits of `CapEff` in `/proc/self/status` (linux/capability.h).
const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_BPF: u32 = 39;

/// The oldest kernels: a host needs hooks for connect and getpeername on links, with socket lookups in them; a gateway
/// needs `sk_assign` for listening sockets, with routing by mark.
const HOST_KERNEL: (u32, u32) = (5, 10);
const GATEWAY_KERNEL: (u32, u32) = (5, 15);
/// From this version on, aya attaches to interfaces by links (TCX).
const TCX_KERNEL: (u32, u32) = (6, 6);

pub(super) fn check(mode: Mode) -> Result<(), RedirectError> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if let Some(what) = missing_capability(&status) {
        return Err(RedirectError::Permission { what });
    }
    let release = release();
    let (needed, shown) = match mode {
        Mode::Host => (HOST_KERNEL, "5.10"),
        Mode::Gateway => (GATEWAY_KERNEL, "5.15"),
    };
    match version(&release) {
        Some(found) if found < needed => Err(RedirectError::Kernel { release, mode: mode.word(), needed: shown }),
        _ => Ok(()),
    }
}

/// Whether programs are attached to interfaces by links, which end with the process.
pub(super) fn kernel_has_links_for_interfaces() -> bool {
    version(&release()).is_some_and(|found| found >= TCX_KERNEL)
}

/// The mount point of the unified control group hierarchy.
pub(super) fn cgroup_root() -> Result<PathBuf, RedirectError> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    cgroup_mount(&mounts).ok_or(RedirectError::NoCgroups)
}

/// The given control groups as full paths: a path that is not below the root is relative to it.
pub(super) fn cgroup_paths(root: &Path, given: &[PathBuf]) -> Vec<PathBuf> {
    given.iter().map(|path| if path.starts_with(root) { path.clone() } else { root.join(relative(path)) }).collect()
}

fn relative(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

fn release() -> String {
    uname().map(|name| name.release().to_string_lossy().into_owned()).unwrap_or_default()
}

fn missing_capability(status: &str) -> Option<&'static str> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    let effective = u64::from_str_radix(line.trim(), 16).ok()?;
    let has = |bit: u32| effective >> bit & 1 == 1;
    if !has(CAP_BPF) && !has(CAP_SYS_ADMIN) {
        Some("CAP_BPF")
    } else if !has(CAP_NET_ADMIN) {
        Some("CAP_NET_ADMIN")
    } else {
        None
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn cgroup_mount(mounts: &str) -> Option<PathBuf> {
    let mut fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    fields.find(|fields| fields.get(2) == Some(&"cgroup2")).and_then(|fields| fields.get(1).map(PathBuf::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_read_from_the_process() {
        for (capabilities, missing) in [
            ("000001ffffffffff", None),
            ("0000000000000000", Some("CAP_BPF")),
            ("0000008000001000", None),
            ("0000008000000000", Some("CAP_NET_ADMIN")),
            ("0000000000201000", None),
        ] {
            let status = format!("Name:\tentrepot\nCapPrm:\t0\nCapEff:\t{capabilities}\n");
            assert_eq!(missing_capability(&status), missing, "{capabilities}");
        }
    }

    #[test]
    fn releases_of_distributions_are_versions() {
        for (release, expected) in
            [("6.1.0-28-amd64", Some((6, 1))), ("5.10.0", Some((5, 10))), ("5.4-generic", Some((5, 4))), ("x", None)]
        {
            assert_eq!(version(release), expected, "{release}");
        }
    }

    #[test]
    fn control_groups_are_found_in_both_layouts() {
        let hybrid = "tmpfs /sys/fs/cgroup tmpfs ro 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(cgroup_mount(hybrid), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(cgroup_mount("none /sys/fs/cgroup cgroup rw 0 0\n"), None);
        let root = Path::new("/sys/fs/cgroup");
        let given = ["system.slice/docker.service", "/kubepods", "/sys/fs/cgroup/user.slice"].map(PathBuf::from);
        let expected = ["system.slice/docker.service", "kubepods", "user.slice"].map(|name| root.join(name));
        assert_eq!(cgroup_paths(root, &given), expected);
    }
}
