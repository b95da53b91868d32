//! The table of what must be reached, and the arithmetic of samples. No figure is written here: only what it is to be
//! compared with.

use serde_json::{Value, json};

/// On which side of its target a figure has to be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparison {
    AtMost,
    AtLeast,
}

/// One row of the table.
pub(crate) struct Goal {
    /// What the sections call it.
    pub(crate) key: &'static str,
    /// The section that measures it.
    pub(crate) section: &'static str,
    pub(crate) figure: &'static str,
    pub(crate) comparison: Comparison,
    pub(crate) value: f64,
    /// `×` for ratios.
    pub(crate) unit: &'static str,
}

const fn goal(
    key: &'static str,
    section: &'static str,
    figure: &'static str,
    comparison: Comparison,
    value: f64,
    unit: &'static str,
) -> Goal {
    Goal { key, section, figure, comparison, value, unit }
}

use Comparison::{AtLeast, AtMost};

/// What must be reached on two cores; ratios are of the same round, entrepot's figure over the other's.
pub(crate) const GOALS: &[Goal] = &[
    goal("tls-cpu", "hit-tls", "TLS hit of a 1 GiB blob, server CPU-s/GiB, against nginx TLS", AtMost, 0.40, "×"),
    goal("plain-cpu", "hit-plain", "plain hit, server CPU-s/GiB, against nginx sendfile", AtMost, 0.60, "×"),
    goal("tls-throughput-4", "hit-tls", "TLS throughput, 4 clients, against nginx", AtLeast, 1.3, "×"),
    goal("manifest-rate", "manifests", "manifest hits/s over TLS keep-alive, against nginx", AtLeast, 1.5, "×"),
    goal("manifest-p99", "manifests", "manifest hits, p99, against nginx", AtMost, 1.0, "×"),
    goal(
        "stampede-bytes",
        "stampede",
        "100 clients, one cold blob at 50 MB/s: upstream bytes / blob",
        AtMost,
        1.0,
        "×",
    ),
    goal("stampede-last", "stampede", "the last of them against one client alone, wall", AtMost, 1.05, "×"),
    goal("stampede-joiner", "stampede", "first byte for a client that joins half-way", AtMost, 20.0, "ms"),
    goal("cold-limited", "cold", "cold pull against direct, upstream at 50 MB/s, wall", AtMost, 1.05, "×"),
    goal("cold-unlimited", "cold", "cold pull against direct, upstream unlimited, wall", AtMost, 1.05, "×"),
    goal("start-clean", "start", "start to first hit, 1M entries, clean", AtMost, 500.0, "ms"),
    goal("start-killed", "start", "start to first hit, 1M entries, after kill -9", AtMost, 500.0, "ms"),
    goal("rss-idle", "memory", "RSS idle with 1M entries, file mappings not counted", AtMost, 64.0, "MiB"),
    goal("rss-streams", "memory", "RSS under 16 × 1 GiB streams, file mappings not counted", AtMost, 128.0, "MiB"),
    goal("idle-connection", "memory", "idle TLS connection, of 5,000 held", AtMost, 24.0, "KiB"),
    goal(
        "p99-under-streams",
        "cold-streams",
        "p99 of manifest hits under cold streams, against idle",
        AtMost,
        2.0,
        "×",
    ),
    goal(
        "redirect-connect-other",
        "redirect",
        "connect() elsewhere, host agent attached, more at the median",
        AtMost,
        5.0,
        "µs",
    ),
    goal("redirect-connect-listed", "redirect", "connect() that is redirected, more at the median", AtMost, 5.0, "µs"),
    goal(
        "redirect-gateway-bulk",
        "redirect",
        "routed bulk throughput, gateway attached against not",
        AtLeast,
        0.97,
        "×",
    ),
    goal("redirect-idle", "redirect", "processor time of the idle agent", AtMost, 0.1, "%"),
];

/// Figures of one kind, one per round.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(pub(crate) Vec<f64>);

impl Samples {
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// The one in the middle, or the mean of both.
    pub(crate) fn median(&self) -> f64 {
        let sorted = self.sorted();
        match sorted.len() {
            0 => f64::NAN,
            count if count % 2 == 1 => sorted[count / 2],
            count => f64::midpoint(sorted[count / 2 - 1], sorted[count / 2]),
        }
    }

    pub(crate) fn min(&self) -> f64 {
        self.sorted().first().copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn max(&self) -> f64 {
        self.sorted().last().copied().unwrap_or(f64::NAN)
    }

    /// Round by round, this over the other.
    pub(crate) fn over(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(own, other)| own / other).collect())
    }

    /// The value that a share of all samples does not exceed.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let sorted = self.sorted();
        let rank = (sorted.len() as f64 * share).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn json(&self) -> Value {
        json!({ "median": self.median(), "min": self.min(), "max": self.max(), "rounds": self.0 })
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }
}

impl Goal {
    /// Reached, or by how much it was missed.
    pub(crate) fn verdict(&self, median: f64) -> String {
        let reached = match self.comparison {
            Comparison::AtMost => median <= self.value,
            Comparison::AtLeast => median >= self.value,
        };
        if reached {
            return "reached".to_owned();
        }
        format!("missed by {:.0} %", (median - self.value).abs() / self.value * 100.0)
    }

    /// `≤ 0.40 ×`
    pub(crate) fn target(&self) -> String {
        let sign = if self.comparison == Comparison::AtMost { "≤" } else { "≥" };
        format!("{sign} {} {}", number(self.value), self.unit)
    }
}

/// Three digits that count.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        _ if !value.is_finite() => "–".to_owned(),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_quantiles_do_not_depend_on_the_order() {
        let samples = Samples(vec![3.0, 1.0, 2.0, 10.0]);
        assert_eq!((samples.median(), samples.min(), samples.max()), (2.5, 1.0, 10.0));
        assert_eq!((samples.quantile(0.99), samples.quantile(0.5)), (10.0, 2.0));
        assert_eq!(samples.over(&Samples(vec![1.0, 2.0, 1.0])).0, [3.0, 0.5, 2.0]);
    }

    #[test]
    fn a_goal_tells_by_how_much_it_was_missed() {
        let most = goal("", "", "", Comparison::AtMost, 0.4, "×");
        assert_eq!((most.verdict(0.4).as_str(), most.verdict(0.5).as_str()), ("reached", "missed by 25 %"));
        let least = goal("", "", "", Comparison::AtLeast, 1.5, "×");
        assert_eq!((least.verdict(2.0).as_str(), least.verdict(1.2).as_str()), ("reached", "missed by 20 %"));
    }
}
