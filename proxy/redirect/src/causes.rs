//! The known causes of packets that are given to the door and do not arrive: what other programs and administrators
//! change on a router, each with its remedy. Read only when packets are lost, and once at the start.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::routing::ROUTE_MARK;

const SETTINGS: &str = "/proc/sys/net/ipv4";

/// A chain of the firewall for packets to this machine.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Chain {
    /// As in commands of nft: family, table, chain.
    name: String,
    drops_by_policy: bool,
    /// Whether a rule may stop a packet.
    has_rules: bool,
}

/// The causes by settings of the kernel, which an interface's clients are lost by for certain.
pub(super) fn by_settings(interface: &str) -> Vec<String> {
    by_settings_below(Path::new(SETTINGS), interface)
}

/// One line about packets of `interface` that were lost: the likely cause, and the remedy. Blocks.
pub(super) fn likely(interface: &str) -> String {
    let mut causes = by_settings(interface);
    causes.extend(by_firewall(&input_chains(&output("nft", &["list", "ruleset"]))));
    if output("iptables-legacy", &["-S", "INPUT"]).lines().any(|line| line == "-P INPUT DROP") {
        causes.push(format!(
            "the firewall's chain INPUT drops: iptables-legacy -I INPUT -m mark --mark {ROUTE_MARK:#x} -j ACCEPT"
        ));
    }
    match causes.is_empty() {
        true => format!(
            "no known cause was found: look for a filter that drops packets with the mark {ROUTE_MARK:#x} to this machine"
        ),
        false => causes.join("; "),
    }
}

fn by_settings_below(settings: &Path, interface: &str) -> Vec<String> {
    let is_on = |name: &str| fs::read_to_string(settings.join(name)).is_ok_and(|value| value.trim() != "0");
    let mut causes = Vec::new();
    for place in ["all", interface] {
        if is_on(&format!("conf/{place}/src_valid_mark")) {
            causes.push(format!(
                "net.ipv4.conf.{place}.src_valid_mark is 1, so the kernel checks the way back by the mark and drops the \
                 packet; set it to 0 (Tailscale and wg-quick set it to 1)"
            ));
        }
    }
    if is_on("tcp_fwmark_accept") {
        causes.push(
            "net.ipv4.tcp_fwmark_accept is 1, so the door's answers have the mark and never leave; set it to 0"
                .to_owned(),
        );
    }
    causes
}

fn by_firewall(chains: &[Chain]) -> Vec<String> {
    let stops = chains.iter().filter(|chain| chain.drops_by_policy || chain.has_rules);
    stops
        .map(|Chain { name, drops_by_policy, .. }| {
            // firewalld forgets rules that it did not write, and has none for marks.
            if name.contains(" firewalld ") {
                return "firewalld may reject it: open port 443 in the zone of the clients' interface".to_owned();
            }
            let does = if *drops_by_policy { "drops" } else { "may drop or reject" };
            format!("the firewall's chain {name} {does}: nft insert rule {name} meta mark {ROUTE_MARK:#x} accept")
        })
        .collect()
}

/// The chains at the hook `input` in the text of `nft list ruleset`.
fn input_chains(ruleset: &str) -> Vec<Chain> {
    let (mut table, mut chain, mut is_input) = (String::new(), String::new(), false);
    let mut found: Vec<Chain> = Vec::new();
    for line in ruleset.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["table", family, name, "{"] => table = format!("{family} {name}"),
            ["chain", name, "{"] => (chain, is_input) = (format!("{table} {name}"), false),
            ["}"] => is_input = false,
            ["type", "filter", "hook", "input", .., "policy", policy] => {
                is_input = true;
                let drops_by_policy = policy.trim_end_matches(';') == "drop";
                found.push(Chain { name: chain.clone(), drops_by_policy, has_rules: false });
            }
            rule if is_input && rule.iter().any(|word| ["drop", "reject", "jump", "goto"].contains(word)) => {
                found.iter_mut().last().into_iter().for_each(|chain| chain.has_rules = true);
            }
            _ => {}
        }
    }
    found
}

/// The output of a program. Empty if there is no such program, or if it fails.
fn output(program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stderr(Stdio::null());
    command.output().map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_lose_packets_are_named_with_their_interface() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, value: &str| {
            let file = folder.path().join(name);
            fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
            fs::write(file, value).expect("written");
        };
        for (name, value, says) in [
            ("conf/all/src_valid_mark", "0\n", None),
            ("conf/lan0/src_valid_mark", "1\n", Some("net.ipv4.conf.lan0.src_valid_mark")),
            ("conf/wan0/src_valid_mark", "1\n", None),
            ("tcp_fwmark_accept", "1\n", Some("net.ipv4.tcp_fwmark_accept")),
            ("conf/all/src_valid_mark", "1\n", Some("net.ipv4.conf.all.src_valid_mark")),
        ] {
            let before = by_settings_below(folder.path(), "lan0");
            write(name, value);
            let after = by_settings_below(folder.path(), "lan0");
            let new: Vec<&String> = after.iter().filter(|cause| !before.contains(cause)).collect();
            assert_eq!(new.len(), usize::from(says.is_some()), "{name}: {new:?}");
            assert!(says.is_none_or(|says| new[0].starts_with(says)), "{name}: {new:?}");
        }
    }

    #[test]
    fn chains_that_stop_packets_to_this_machine_are_found() {
        let ruleset = "table inet filter {\n\tset names {\n\t\ttype ipv4_addr\n\t}\n\n\tchain input {\n\
            \t\ttype filter hook input priority filter; policy drop;\n\t\tct state established accept\n\t}\n\n\
            \tchain forward {\n\t\ttype filter hook forward priority filter; policy drop;\n\t\tdrop\n\t}\n}\n\
            table ip filter {\n\tchain INPUT {\n\t\ttype filter hook input priority filter; policy accept;\n\
            \t\tcounter packets 0 bytes 0 jump ufw-before-input\n\t}\n\tchain ufw-before-input {\n\t\tdrop\n\t}\n}\n\
            table ip mangle {\n\tchain INPUT {\n\t\ttype filter hook input priority mangle; policy accept;\n\t}\n}\n";
        let chain = |name: &str, drops_by_policy, has_rules| Chain { name: name.into(), drops_by_policy, has_rules };
        let found = input_chains(ruleset);
        assert_eq!(
            found,
            [
                chain("inet filter input", true, false),
                chain("ip filter INPUT", false, true),
                chain("ip mangle INPUT", false, false),
            ]
        );
        let causes = by_firewall(&found);
        assert_eq!(causes.len(), 2, "{causes:?}");
        assert!(causes[0].ends_with("nft insert rule inet filter input meta mark 0xe8 accept"), "{causes:?}");
        assert!(input_chains("").is_empty());
    }
}
