//! The agent's report about itself: the status for people and programs, and the same as metrics.

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

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Report {
    /// `host` or `gateway`.
    pub mode: String,
    pub since_unix_seconds: u64,
    /// The control groups or interfaces that the programs are attached to.
    pub attached: Vec<String>,
    /// `this machine`, or the appliance as it is configured.
    pub door: String,
    /// The doors that answer.
    pub answering: Vec<SocketAddr>,
    /// Whether connections are redirected because a door answers and packets arrive there.
    pub healthy: bool,
    /// The reason why they are not. None if they are.
    #[serde(default)]
    pub paused: Option<String>,
    /// The reason why not every interface of a gateway has proofs that packets arrive. None if all have, or none are needed.
    #[serde(default)]
    pub unproved: Option<String>,
    /// Whether connections are redirected even if no door answers.
    pub enforce: bool,
    /// The destination ports that are redirected.
    pub ports: Vec<u16>,
    /// The known addresses of listed names.
    pub addresses: Vec<Learned>,
    pub counters: Vec<Counted>,
    /// The addresses whose connections go to their own destination, because one of them had no name.
    #[serde(default)]
    pub direct: Vec<Learned>,
    /// The resolvers whose answers are learned from.
    #[serde(default)]
    pub resolvers: Vec<IpAddr>,
    /// The senders of answers that nothing was learned from.
    #[serde(default)]
    pub strangers: Vec<Stranger>,
}

/// A sender of answers of DNS about listed names that is no resolver, or was not asked.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Stranger {
    pub address: IpAddr,
    pub answers: u64,
}

/// A known address of a registry.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Learned {
    pub address: IpAddr,
    /// Zero if the address has expired.
    pub expires_in_seconds: u64,
}

/// The number of connections with one outcome.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Counted {
    /// The word of an `Outcome`.
    pub outcome: String,
    pub count: u64,
}

/// The most addresses that people see; the JSON has all.
const ADDRESSES_SHOWN_MAX: usize = 20;

impl Report {
    /// The report as OpenMetrics text.
    pub(crate) fn to_metrics(&self) -> String {
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
        let reason = self.paused.as_deref().unwrap_or("the door does not answer");
        let state = match (self.healthy, self.enforce) {
            (true, _) => "redirecting".to_owned(),
            (false, true) => format!("redirecting (enforce), although {reason}"),
            (false, false) => format!("letting everything pass: {reason}"),
        };
        let joined = |items: &[String]| items.join(", ");
        let answering: Vec<String> = self.answering.iter().map(ToString::to_string).collect();
        let ports: Vec<String> = self.ports.iter().map(ToString::to_string).collect();
        writeln!(formatter, "mode       {}", self.mode)?;
        writeln!(formatter, "state      {state}")?;
        if let Some(unproved) = &self.unproved {
            writeln!(formatter, "unproved   {unproved}")?;
        }
        writeln!(formatter, "since      {}", httpdate::fmt_http_date(since(self.since_unix_seconds)))?;
        writeln!(formatter, "attached   {}", joined(&self.attached))?;
        writeln!(
            formatter,
            "door       {} (answering: {})",
            self.door,
            if answering.is_empty() { "none".to_owned() } else { joined(&answering) }
        )?;
        writeln!(formatter, "ports      {}", joined(&ports))?;
        for counted in self.counters.iter().filter(|counted| counted.count > 0) {
            writeln!(formatter, "{:<24} {}", counted.outcome, counted.count)?;
        }
        let resolvers: Vec<String> = self.resolvers.iter().map(ToString::to_string).collect();
        writeln!(formatter, "resolvers  {}", joined(&resolvers))?;
        for stranger in &self.strangers {
            let address = stranger.address.to_string();
            writeln!(formatter, "  not heard: {address:<29} {} answers that it was not asked for", stranger.answers)?;
        }
        for direct in &self.direct {
            let (address, seconds) = (direct.address.to_string(), direct.expires_in_seconds);
            writeln!(formatter, "  direct: {address:<32} {seconds} s, for want of a name")?;
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

#[derive(Debug)]
struct Scrape(Report);

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let report = &self.0;
        for (name, help, value) in [
            ("healthy", "1 while connections are redirected to the door", u64::from(report.healthy)),
            ("addresses", "Known addresses of registries", report.addresses.len() as u64),
        ] {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        let help = "Outcomes of connections and of DNS answers";
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
            paused: None,
            unproved: None,
            enforce: false,
            ports: vec![443, 5000],
            addresses: vec![Learned { address: "192.0.2.1".parse().expect("an address"), expires_in_seconds: 60 }],
            counters: vec![counted("redirected", 7), counted("unhealthy", 0)],
            direct: vec![Learned { address: "192.0.2.3".parse().expect("an address"), expires_in_seconds: 599 }],
            resolvers: vec!["192.0.2.53".parse().expect("an address")],
            strangers: vec![Stranger { address: "192.0.2.66".parse().expect("an address"), answers: 3 }],
        }
    }

    #[test]
    fn people_see_the_state_and_the_counters() {
        let text = report().to_string();
        for line in [
            "state      redirecting",
            "ports      443, 5000",
            "redirected               7",
            "192.0.2.1",
            "resolvers  192.0.2.53",
            "not heard: 192.0.2.66",
            "direct: 192.0.2.3",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("unhealthy") && !text.contains("unproved"), "{text}");
        let unproved = Report { unproved: Some("no proof can be made for ppp0".to_owned()), ..report() }.to_string();
        assert!(unproved.contains("unproved   no proof can be made for ppp0"), "{unproved}");
        let unhealthy = Report { healthy: false, answering: Vec::new(), ..report() };
        assert!(unhealthy.to_string().contains("letting everything pass"), "{unhealthy}");
    }

    #[test]
    fn programs_read_everything_back() {
        let json = serde_json::to_string(&report()).expect("JSON");
        assert_eq!(serde_json::from_str::<Report>(&json).expect("JSON"), report());
        let metrics = report().to_metrics();
        for line in ["entrepot_redirect_healthy 1", "entrepot_redirect_outcomes_total{outcome=\"redirected\"} 7"] {
            assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
        }
    }
}
