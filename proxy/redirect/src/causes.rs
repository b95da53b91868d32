//! The known causes of packets that are given to the door and do not arrive: what other programs and administrators
//! change on a router, each with its remedy. Read only when packets are lost, and once at the start.
//!
//! Invariant: a look for causes ends within [`PATIENCE`] for each program that it asks.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use super::routing::{self, PREFERENCE, ROUTE_MARK};

const SETTINGS: &str = "/proc/sys/net/ipv4";
/// The firewalls of an older kind: their table lists, which the kernel has while such a firewall is in force, and their
/// programs. The program alone would put an empty firewall in force.
const LEGACY: [(&str, &str); 2] =
    [("/proc/net/ip_tables_names", "iptables-legacy"), ("/proc/net/ip6_tables_names", "ip6tables-legacy")];
/// The longest time that a program may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// A chain of the firewall.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
struct Chain {
    /// As in commands of nft: family, table, chain.
    name: String,
    /// The hook of a chain that filters. Empty if it has none.
    hook: String,
    drops_by_policy: bool,
    /// Whether a rule may stop a packet.
    may_stop: bool,
    /// Whether a rule changes the mark of packets.
    sets_mark: bool,
    /// The names of the chains that its rules go on with.
    leads_to: Vec<String>,
}

/// The causes by settings of the kernel, which an interface's clients are lost by for certain.
pub(super) fn by_settings(interface: &str) -> Vec<String> {
    by_settings_below(Path::new(SETTINGS), interface)
}

/// One line about packets of `interface` that were lost: the likely cause, and the remedy.
pub(super) async fn likely(interface: &str) -> String {
    let mut causes = by_settings(interface);
    causes.extend(by_rules(&routing::earlier_rules().await));
    causes.extend(by_firewall(&chains(&output("nft", &["list", "ruleset"]).await)));
    for (tables, program) in LEGACY {
        let is_in_force = fs::read_to_string(tables).is_ok_and(|tables| tables.lines().any(|table| table == "filter"));
        if is_in_force && stops(&output(program, &["-S", "INPUT"]).await) {
            causes.push(format!(
                "the firewall's chain INPUT may drop or reject: {program} -I INPUT -m mark --mark {ROUTE_MARK:#x} -j ACCEPT"
            ));
        }
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

fn by_rules(preferences: &[u32]) -> Option<String> {
    let listed: Vec<String> = preferences.iter().map(ToString::to_string).collect();
    let listed = listed.join(", ");
    (!preferences.is_empty()).then(|| {
        format!("a routing rule comes before ours: its preference is {listed}; give it one above {PREFERENCE}")
    })
}

fn by_firewall(chains: &[Chain]) -> Vec<String> {
    let sets_mark = |name: &String| chains.iter().any(|chain| chain.sets_mark && chain.name == *name);
    let cause = |chain: &Chain| {
        let Chain { name, hook, .. } = chain;
        let stops = chain.drops_by_policy || chain.may_stop;
        let does = match hook.as_str() {
            // firewalld forgets rules that it did not write, and has none for marks.
            "input" if stops && name.contains(" firewalld ") => {
                return Some("firewalld may reject it: open port 443 in the zone of the clients' interface".to_owned());
            }
            "input" if chain.drops_by_policy => "drops",
            "input" if stops => "may drop or reject",
            "prerouting" if chain.sets_mark || chain.leads_to.iter().any(sets_mark) => "may change the mark of packets",
            _ => return None,
        };
        Some(format!("the firewall's chain {name} {does}: nft insert rule {name} meta mark {ROUTE_MARK:#x} accept"))
    };
    chains.iter().filter_map(cause).collect()
}

/// The chains in the text of `nft list ruleset`.
fn chains(ruleset: &str) -> Vec<Chain> {
    let mut table = String::new();
    let mut found: Vec<Chain> = Vec::new();
    let mut is_inside = false;
    for line in ruleset.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match (words.as_slice(), found.last_mut().filter(|_| is_inside)) {
            (["table", family, name, "{"], _) => table = format!("{family} {name}"),
            (["chain", name, "{"], _) => {
                is_inside = true;
                found.push(Chain { name: format!("{table} {name}"), ..Chain::default() });
            }
            (["}"], _) => is_inside = false,
            (["type", "filter", "hook", hook, .., "policy", policy], Some(chain)) => {
                (*hook).clone_into(&mut chain.hook);
                chain.drops_by_policy = policy.trim_end_matches(';') == "drop";
            }
            (rule, Some(chain)) => {
                chain.may_stop |= rule.iter().any(|word| ["drop", "reject", "jump", "goto"].contains(word));
                chain.sets_mark |= rule.windows(3).any(|words| words == ["meta", "mark", "set"]);
                let next = rule.windows(2).filter(|words| ["jump", "goto"].contains(&words[0]));
                chain.leads_to.extend(next.map(|words| format!("{table} {}", words[1])));
            }
            _ => {}
        }
    }
    found
}

/// Whether the rules of a chain, as `iptables -S` prints them, may stop a packet.
fn stops(rules: &str) -> bool {
    let target = |line: &str| line.split_once(" -j ").map(|(_, target)| target.starts_with("ACCEPT"));
    rules.lines().any(|line| line == "-P INPUT DROP" || target(line) == Some(false))
}

/// The output of a program. Empty if there is no such program, if it fails, or if it takes too long.
async fn output(program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let output = timeout(PATIENCE, command.output()).await;
    output.ok().and_then(Result::ok).map(|it| String::from_utf8_lossy(&it.stdout).into_owned()).unwrap_or_default()
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
    fn chains_that_lose_packets_to_this_machine_are_found() {
        let ruleset = "table inet filter {\n\tset names {\n\t\ttype ipv4_addr\n\t}\n\n\tchain input {\n\
            \t\ttype filter hook input priority filter; policy drop;\n\t\tct state established accept\n\t}\n\n\
            \tchain forward {\n\t\ttype filter hook forward priority filter; policy drop;\n\t\tdrop\n\t}\n}\n\
            table ip filter {\n\tchain INPUT {\n\t\ttype filter hook input priority filter; policy accept;\n\
            \t\tcounter packets 0 bytes 0 jump ufw-before-input\n\t}\n\tchain ufw-before-input {\n\t\tdrop\n\t}\n}\n\
            table ip mangle {\n\tchain INPUT {\n\t\ttype filter hook input priority mangle; policy accept;\n\t}\n\
            \tchain PREROUTING {\n\t\ttype filter hook prerouting priority mangle; policy accept;\n\
            \t\tcounter packets 0 bytes 0 jump balance\n\t}\n\tchain balance {\n\t\tmeta mark set 0x00000100\n\t}\n}\n\
            table ip other {\n\tchain first {\n\t\ttype filter hook prerouting priority raw; policy accept;\n\
            \t\tjump balance\n\t}\n}\n\
            table ip nat {\n\tchain PREROUTING {\n\t\ttype nat hook prerouting priority dstnat; policy accept;\n\
            \t\tmeta mark set 0x00000100\n\t}\n}\n";
        let causes = by_firewall(&chains(ruleset));
        let expected = [
            "inet filter input drops: nft insert rule inet filter input",
            "ip filter INPUT may drop or reject: nft insert rule ip filter INPUT",
            "ip mangle PREROUTING may change the mark of packets: nft insert rule ip mangle PREROUTING",
        ];
        let expected = expected.map(|cause| format!("the firewall's chain {cause} meta mark 0xe8 accept"));
        assert_eq!(causes, expected);
        assert!(chains("").is_empty());
    }

    #[test]
    fn a_chain_of_the_older_kind_stops_by_its_policy_or_a_rule() {
        for (rules, expected) in [
            ("-P INPUT ACCEPT\n", false),
            ("-P INPUT DROP\n", true),
            ("-P INPUT ACCEPT\n-A INPUT -i lo -j ACCEPT\n", false),
            ("-P INPUT ACCEPT\n-A INPUT -p tcp -j REJECT --reject-with tcp-reset\n", true),
            ("-P INPUT ACCEPT\n-A INPUT -j ufw-before-input\n", true),
            ("", false),
        ] {
            assert_eq!(stops(rules), expected, "{rules}");
        }
    }

    #[test]
    fn rules_before_ours_are_named() {
        assert_eq!(by_rules(&[]), None);
        let cause = by_rules(&[5, 20]).expect("a cause");
        assert!(cause.contains("preference is 5, 20; give it one above 90"), "{cause}");
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_not_waited_for() {
        let began = std::time::Instant::now();
        assert_eq!(output("sleep", &["60"]).await, "");
        assert!(began.elapsed() < 3 * PATIENCE, "{:?}", began.elapsed());
        assert_eq!(output("echo", &["said"]).await, "said\n");
        assert_eq!(output("no-such-program", &[]).await, "");
    }
}
