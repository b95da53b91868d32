//! What the agent says of itself: the status for people and programs, and the same as metrics.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};

/// The agent's state.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Report {
    /// `host` or `gateway`.
    pub mode: String,
    /// When it was attached.
    pub since_unix_seconds: u64,
    /// Control groups, or interfaces, that it is attached to.
    pub attached: Vec<String>,
    /// Where connections are led to, as it was configured.
    pub door: String,
    /// The doors that answer.
    pub answering: Vec<SocketAddr>,
    /// Whether connections are redirected now.
    pub healthy: bool,
    /// Whether they are redirected all the same.
    pub enforce: bool,
    /// Ports that are redirected.
    pub ports: Vec<u16>,
    /// Addresses of listed names.
    pub addresses: Vec<Learned>,
    /// What became of connections, by outcome.
    pub counters: Vec<Counted>,
}

/// An address that is known to be a registry's.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Learned {
    /// The address.
    pub address: IpAddr,
    /// How long it holds; zero where it has lapsed.
    pub expires_in_seconds: u64,
}

/// A counter.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Counted {
    /// The outcome's word.
    pub outcome: String,
    /// How often.
    pub count: u64,
}

/// Addresses that people are shown; programs get them all.
const ADDRESSES_SHOWN_MAX: usize = 20;

impl Report {
    /// As OpenMetrics text.
    pub fn to_metrics(&self) -> String {
        let mut registry = Registry::with_prefix("entrepot_redirect");
        registry.register_collector(Box::new(Scrape(self.clone())));
        let mut text = String::new();
        // Writing into a String cannot fail, and a failing collector leaves what came before it.
        let _ = encode(&mut text, &registry);
        text
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match (self.healthy, self.enforce) {
            (true, _) => "redirecting",
            (false, true) => "redirecting although the door does not answer (enforce)",
            (false, false) => "letting everything pass: the door does not answer",
        };
        let joined = |items: &[String]| items.join(", ");
        let answering: Vec<String> = self.answering.iter().map(ToString::to_string).collect();
        let ports: Vec<String> = self.ports.iter().map(ToString::to_string).collect();
        writeln!(formatter, "mode       {}", self.mode)?;
        writeln!(formatter, "state      {state}")?;
        writeln!(formatter, "since      {}", httpdate::fmt_http_date(since(self.since_unix_seconds)))?;
        writeln!(formatter, "attached   {}", joined(&self.attached))?;
        writeln!(formatter, "door       {} (answering: {})", self.door, or_none(joined(&answering)))?;
        writeln!(formatter, "ports      {}", joined(&ports))?;
        for counted in self.counters.iter().filter(|counted| counted.count > 0) {
            writeln!(formatter, "{:<24} {}", counted.outcome, counted.count)?;
        }
        writeln!(formatter, "addresses  {}", self.addresses.len())?;
        for learned in self.addresses.iter().take(ADDRESSES_SHOWN_MAX) {
            writeln!(formatter, "  {:<40} {} s", learned.address.to_string(), learned.expires_in_seconds)?;
        }
        match self.addresses.len().saturating_sub(ADDRESSES_SHOWN_MAX) {
            0 => Ok(()),
            more => writeln!(formatter, "  and {more} more (--json)"),
        }
    }
}

fn since(unix_seconds: u64) -> std::time::SystemTime {
    std::time::UNIX_EPOCH + std::time::Duration::from_secs(unix_seconds)
}

fn or_none(text: String) -> String {
    if text.is_empty() { "none".to_owned() } else { text }
}

#[derive(Debug)]
struct Scrape(Report);

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let report = &self.0;
        for (name, help, value) in [
            ("healthy", "1 while connections are led to the door", u64::from(report.healthy)),
            ("addresses", "Addresses known to be registries'", report.addresses.len() as u64),
        ] {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        let help = "What became of connections, and of DNS answers";
        let mut outcomes = encoder.encode_descriptor("outcomes", help, None, MetricType::Counter)?;
        for counted in &report.counters {
            let label = [("outcome", counted.outcome.as_str())];
            ConstCounter::new(counted.count).encode(outcomes.encode_family(&label)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let counted = |outcome: &str, count| Counted { outcome: outcome.to_owned(), count };
        Report {
            mode: "host".to_owned(),
            since_unix_seconds: 1_700_000_000,
            attached: vec!["/sys/fs/cgroup".to_owned()],
            door: "this machine".to_owned(),
            answering: vec!["127.0.0.1:3129".parse().expect("an address")],
            healthy: true,
            enforce: false,
            ports: vec![443, 5000],
            addresses: vec![Learned { address: "192.0.2.1".parse().expect("an address"), expires_in_seconds: 60 }],
            counters: vec![counted("redirected", 7), counted("unhealthy", 0)],
        }
    }

    #[test]
    fn people_read_what_counts() {
        let text = report().to_string();
        for line in ["state      redirecting", "ports      443, 5000", "redirected               7", "192.0.2.1"] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("unhealthy"), "{text}");
        let unhealthy = Report { healthy: false, answering: Vec::new(), ..report() };
        assert!(unhealthy.to_string().contains("letting everything pass"), "{unhealthy}");
    }

    #[test]
    fn programs_get_it_all_back() {
        let json = serde_json::to_string(&report()).expect("JSON");
        assert_eq!(serde_json::from_str::<Report>(&json).expect("JSON"), report());
        let metrics = report().to_metrics();
        for line in ["entrepot_redirect_healthy 1", "entrepot_redirect_outcomes_total{outcome=\"redirected\"} 7"] {
            assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
        }
    }
}
