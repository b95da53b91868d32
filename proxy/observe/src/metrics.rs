//! The one list of metrics, `entrepot_*`, in OpenMetrics.
//!
//! The data path counts through typed fields; what the store knows itself is asked for at each scrape. Labels are the
//! closed sets of [`super::labels`]: never a host, repository or client, whose number others decide.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use entrepot_core::outcome::{CacheStatus, RequestType};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::{Registry, Unit};

use super::labels::{
    Bypass, ConnectionRefusal, Direction, DiskLadder, Door, FetchFailure, Handshake, Label, Rejection, RightsOutcome,
    UpstreamMethod, UpstreamOutcome,
};

/// Every metric.
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    hits: Counter,
    misses: Counter,
    scrape: Arc<Scrape>,
    /// Body bytes sent to clients.
    pub bytes_to_clients: Counter,
    /// Body bytes received from upstream.
    pub bytes_from_upstream: Counter,
    upstream_requests: Family<UpstreamLabels, Counter>,
    /// Questions that upstream was not asked, because it had answered 429.
    pub upstream_withheld: Counter,
    /// From sending a request upstream to its answer's head.
    pub upstream_head_seconds: Histogram,
    /// Fills begun.
    pub fills_started: Counter,
    /// Fills published.
    pub fills_finished: Counter,
    /// Fills that published nothing.
    pub fills_failed: By<FetchFailure>,
    /// Times that a fill went on by Range after a break.
    pub fills_resumed: Counter,
    /// Requests that joined a running fill.
    pub followers_joined: Counter,
    pub accounts_refused: Counter,
    /// Blobs and manifests put into the store.
    pub stored: Counter,
    /// Answers passed through without the cache.
    pub bypass: By<Bypass>,
    /// Tags answered from the cache because upstream failed.
    pub stale_served: Counter,
    data_plane: Family<[(&'static str, &'static str); 1], Gauge>,
    connections_open: Family<[(&'static str, Door); 1], Gauge>,
    connections: By<Door>,
    /// Connections closed without an answer.
    pub connections_refused: By<ConnectionRefusal>,
    /// Sealed tunnels opened.
    pub tunnels: Counter,
    /// Bytes through them.
    pub tunnel_bytes: By<Direction>,
    /// TLS handshakes with clients.
    pub tls_handshakes: By<Handshake>,
    /// Requests refused without asking anybody.
    pub rejected_requests: By<Rejection>,
    /// Whether clients may have what is cached.
    pub rights_checks: By<RightsOutcome>,
    disk_ladder: Family<[(&'static str, DiskLadder); 1], Gauge>,
}

/// Numbers that other parts know, asked for at each scrape.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Scraped {
    /// Bytes of blobs and fills.
    pub store_size_bytes: u64,
    /// The most they may take.
    pub store_max_size_bytes: u64,
    /// Blobs in the store.
    pub store_blobs: u64,
    /// Blobs dropped to make room, or unused for too long.
    pub store_evictions: u64,
    /// Failures of disk and index.
    pub store_errors: u64,
    /// Lines that the access log lost.
    pub access_log_dropped: u64,
    /// Registries and credentials that are not asked, because their pull quota is used up.
    pub quota_pauses: u64,
    /// The same because they asked too often.
    pub rate_pauses: u64,
    /// Registries and credentials with so few pulls left that tags are not checked.
    pub low_quotas: u64,
    /// Page faults that each serving thread waited for.
    pub worker_major_faults: Vec<u64>,
}

/// A counter for each word of one label.
pub struct By<L: Label> {
    key: &'static str,
    counters: Family<[(&'static str, L); 1], Counter>,
}

/// A connection that counts as open until this is dropped.
pub struct OpenConnection(Gauge);

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct RequestLabels {
    request_type: &'static str,
    cache_status: &'static str,
    status_class: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct UpstreamLabels {
    method: UpstreamMethod,
    outcome: UpstreamOutcome,
}

impl Metrics {
    /// All metrics at zero.
    pub fn new() -> Self {
        let mut list = List(Registry::with_prefix("entrepot"));
        let scrape = Arc::new(Scrape::default());
        let head = Histogram::new(exponential_buckets(0.005, 2.0, 14));
        list.0.register_with_unit(
            "upstream_head",
            "From a request to the head of its answer",
            Unit::Seconds,
            head.clone(),
        );
        list.0.register_collector(Box::new(Arc::clone(&scrape)));
        Self {
            scrape,
            requests: list.family("requests", "Requests answered"),
            hits: Counter::default(),
            misses: Counter::default(),
            bytes_to_clients: list.bytes("sent_to_clients", "Body bytes sent to clients"),
            bytes_from_upstream: list.bytes("received_from_upstream", "Body bytes received from upstream"),
            upstream_requests: list.family("upstream_requests", "Requests to upstream"),
            upstream_withheld: list
                .counter("upstream_withheld", "Questions that upstream was not asked, because it had answered 429"),
            upstream_head_seconds: head,
            fills_started: list.counter("fills_started", "Fills begun"),
            fills_finished: list.counter("fills_finished", "Fills published"),
            fills_failed: list.by("fills_failed", "Fills that published nothing", "reason"),
            fills_resumed: list.counter("fills_resumed", "Fills continued by Range after a break"),
            accounts_refused: list
                .counter("account_refusals", "Refusals of accounts that are configured for a registry"),
            followers_joined: list.counter("followers_joined", "Requests that joined a running fill"),
            stored: list.counter("stored", "Blobs and manifests put into the store"),
            bypass: list.by("bypass", "Answers passed through without the cache", "reason"),
            stale_served: list.counter("stale_served", "Tags answered from the cache because upstream failed"),
            data_plane: list.family("data_plane", "1 for the way that bytes take on this machine"),
            connections_open: list.family("connections_open", "Connections of clients"),
            connections: list.by("connections", "Connections accepted", "door"),
            connections_refused: list.by("connections_refused", "Connections closed without an answer", "reason"),
            tunnels: list.counter("tunnels", "Sealed tunnels opened"),
            tunnel_bytes: list.by("tunnel_bytes", "Bytes through sealed tunnels", "direction"),
            tls_handshakes: list.by("tls_handshakes", "TLS handshakes with clients", "outcome"),
            rejected_requests: list.by("rejected_requests", "Requests refused without asking anybody", "reason"),
            rights_checks: list.by("rights_checks", "Whether clients may have what is cached", "outcome"),
            disk_ladder: list.family("disk_ladder", "How the disk threads make their calls: 1 for what is in use"),
            registry: list.0,
        }
    }

    /// Names where the numbers come from that are asked for at a scrape; the first call counts. `source` is called on
    /// the scraping thread and must not block long.
    pub fn scrape_from(&self, source: impl Fn() -> Scraped + Send + Sync + 'static) {
        let _ = self.scrape.0.set(Box::new(source));
    }

    /// Says which ways bytes take here.
    pub fn show_data_plane(&self, what: &'static str, way: &'static str) {
        self.data_plane.get_or_create(&[(what, way)]).set(1);
    }

    /// Takes back what [`Self::show_data_plane`] said.
    pub fn hide_data_plane(&self, what: &'static str, way: &'static str) {
        self.data_plane.remove(&[(what, way)]);
    }

    /// One request answered.
    pub fn request(&self, request_type: RequestType, cache_status: CacheStatus, status: u16) {
        let labels = RequestLabels {
            request_type: request_type.word(),
            cache_status: if cache_status == CacheStatus::None { "NONE" } else { cache_status.word() },
            status_class: status_class(status),
        };
        self.requests.get_or_create(&labels).inc();
        if cache_status.served_from_store() {
            self.hits.inc();
        } else if cache_status != CacheStatus::None {
            self.misses.inc();
        }
        if cache_status == CacheStatus::Stale {
            self.stale_served.inc();
        }
    }

    /// One request to upstream; `head_after` where an answer's head came.
    pub fn upstream_request(&self, method: UpstreamMethod, outcome: UpstreamOutcome, head_after: Option<Duration>) {
        self.upstream_requests.get_or_create(&UpstreamLabels { method, outcome }).inc();
        if let Some(elapsed) = head_after {
            self.upstream_head_seconds.observe(elapsed.as_secs_f64());
        }
    }

    /// One connection accepted; open until the guard is dropped.
    pub fn connection(&self, door: Door) -> OpenConnection {
        self.connections.inc(door);
        let gauge = self.connections_open.get_or_create_owned(&[("door", door)]);
        gauge.inc();
        OpenConnection(gauge)
    }

    /// Says how the disk threads make their calls.
    pub fn set_disk_ladder(&self, in_use: DiskLadder) {
        for rung in DiskLadder::ALL {
            self.disk_ladder.get_or_create(&[("rung", *rung)]).set(i64::from(*rung == in_use));
        }
    }

    /// Requests answered from the store.
    pub fn hits(&self) -> u64 {
        self.hits.get()
    }

    /// Requests that the cache had a part in and that upstream's bytes answered.
    pub fn misses(&self) -> u64 {
        self.misses.get()
    }

    /// Blobs and manifests put into the store.
    pub fn stores(&self) -> u64 {
        self.stored.get()
    }

    /// Fills that failed, and answers that the cache could not take part in for its own fault.
    pub fn errors(&self) -> u64 {
        self.fills_failed.total() + self.bypass.get(Bypass::DiskFull) + self.bypass.get(Bypass::IoError)
    }

    /// Fills begun and neither published nor failed.
    pub fn fills_running(&self) -> u64 {
        // The ends first: a fill that ends in between is then counted as running rather than making less than none.
        let ended = self.fills_finished.get() + self.fills_failed.total();
        self.fills_started.get().saturating_sub(ended)
    }

    /// OpenMetrics text.
    pub fn encode(&self) -> String {
        let mut text = String::with_capacity(16 * 1024);
        // Writing into a String cannot fail, and a failing collector leaves what came before it.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl<L: Label> By<L> {
    /// One more.
    pub fn inc(&self, label: L) {
        self.add(label, 1);
    }

    /// `count` more.
    pub fn add(&self, label: L, count: u64) {
        self.counters.get_or_create(&[(self.key, label)]).inc_by(count);
    }

    /// How many of one word.
    pub fn get(&self, label: L) -> u64 {
        self.counters.get_or_create(&[(self.key, label)]).get()
    }

    /// How many of all words.
    pub fn total(&self) -> u64 {
        L::ALL.iter().map(|label| self.get(*label)).sum()
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn status_class(status: u16) -> &'static str {
    match status / 100 {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    }
}

/// Registers while it makes.
struct List(Registry);

impl List {
    fn counter(&mut self, name: &str, help: &str) -> Counter {
        let counter = Counter::default();
        self.0.register(name, help, counter.clone());
        counter
    }

    fn bytes(&mut self, name: &str, help: &str) -> Counter {
        let counter = Counter::default();
        self.0.register_with_unit(name, help, Unit::Bytes, counter.clone());
        counter
    }

    fn family<S, M>(&mut self, name: &str, help: &str) -> Family<S, M>
    where
        S: EncodeLabelSet + Clone + std::hash::Hash + Eq + fmt::Debug + Send + Sync + 'static,
        M: EncodeMetric + TypedMetric + Default + fmt::Debug + Send + Sync + 'static,
    {
        let family = Family::default();
        self.0.register(name, help, family.clone());
        family
    }

    fn by<L: Label>(&mut self, name: &str, help: &str, key: &'static str) -> By<L> {
        let by = By { key, counters: self.family(name, help) };
        L::ALL.iter().for_each(|label| by.add(*label, 0));
        by
    }
}

#[derive(Default)]
struct Scrape(OnceLock<Box<dyn Fn() -> Scraped + Send + Sync>>);

impl fmt::Debug for Scrape {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Scrape")
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(source) = self.0.get() else { return Ok(()) };
        let now = source();
        let bytes = Some(&Unit::Bytes);
        for (name, help, unit, value) in [
            ("store_size", "Bytes of blobs and fills", bytes, now.store_size_bytes),
            ("store_max_size", "The most that blobs and fills may take", bytes, now.store_max_size_bytes),
            ("store_blobs", "Blobs in the store", None, now.store_blobs),
        ] {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?)?;
        }
        let help = "Registries and credentials that are not asked, because upstream answered 429";
        let mut pauses = encoder.encode_descriptor("upstream_pauses", help, None, MetricType::Gauge)?;
        for (limit, value) in [("pull_quota", now.quota_pauses), ("request_rate", now.rate_pauses)] {
            ConstGauge::new(value).encode(pauses.encode_family(&[("limit", limit)])?)?;
        }
        let help = "Registries and credentials with so few pulls left that tags are not checked";
        let gauge = ConstGauge::new(now.low_quotas);
        gauge.encode(encoder.encode_descriptor("upstream_low_quotas", help, None, MetricType::Gauge)?)?;
        for (name, help, value) in [
            ("store_evictions", "Blobs dropped to make room or unused for too long", now.store_evictions),
            ("store_errors", "Failures of disk and index", now.store_errors),
            ("access_log_dropped", "Lines that the access log lost", now.access_log_dropped),
        ] {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
        }
        let help = "Page faults that a serving thread waited for";
        let mut faults = encoder.encode_descriptor("worker_major_faults", help, None, MetricType::Counter)?;
        for (worker, count) in now.worker_major_faults.iter().enumerate() {
            ConstCounter::new(*count).encode(faults.encode_family(&[("worker", worker)])?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(metrics: &Metrics, line: &str) {
        let text = metrics.encode();
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }

    #[test]
    fn requests_divide_into_hits_and_misses() {
        let metrics = Metrics::new();
        for (status, hits, misses) in [
            (CacheStatus::None, 0, 0),
            (CacheStatus::Hit, 1, 0),
            (CacheStatus::Stale, 2, 0),
            (CacheStatus::Revalidated, 3, 0),
            (CacheStatus::Miss, 3, 1),
            (CacheStatus::Expired, 3, 2),
            (CacheStatus::Updating, 3, 3),
            (CacheStatus::Bypass, 3, 4),
        ] {
            metrics.request(RequestType::BlobByDigest, status, 206);
            assert_eq!((metrics.hits(), metrics.misses()), (hits, misses), "{status:?}");
        }
        let labels = r#"request_type="blob-by-digest",cache_status="HIT",status_class="2xx""#;
        has(&metrics, &format!("entrepot_requests_total{{{labels}}} 1"));
        has(&metrics, "entrepot_stale_served_total 1");
    }

    #[test]
    fn connections_close_with_their_guard() {
        let metrics = Metrics::new();
        let first = metrics.connection(Door::Proxy);
        let second = metrics.connection(Door::Proxy);
        has(&metrics, r#"entrepot_connections_open{door="proxy"} 2"#);
        drop((first, second));
        has(&metrics, r#"entrepot_connections_open{door="proxy"} 0"#);
        has(&metrics, r#"entrepot_connections_total{door="proxy"} 2"#);
    }

    #[test]
    fn reasons_exist_from_the_start_and_add_up() {
        let metrics = Metrics::new();
        has(&metrics, r#"entrepot_bypass_total{reason="disk_full"} 0"#);
        metrics.bypass.inc(Bypass::DiskFull);
        metrics.bypass.inc(Bypass::NoStore);
        metrics.fills_failed.add(FetchFailure::WrongDigest, 2);
        has(&metrics, r#"entrepot_bypass_total{reason="disk_full"} 1"#);
        assert_eq!((metrics.bypass.total(), metrics.errors()), (2, 3));
    }

    #[test]
    fn one_rung_of_the_ladder_is_in_use() {
        let metrics = Metrics::new();
        metrics.set_disk_ladder(DiskLadder::Uring);
        metrics.set_disk_ladder(DiskLadder::Threads);
        has(&metrics, r#"entrepot_disk_ladder{rung="io_uring"} 0"#);
        has(&metrics, r#"entrepot_disk_ladder{rung="threads"} 1"#);
    }

    #[test]
    fn running_fills_are_those_that_did_not_end() {
        let metrics = Metrics::new();
        metrics.fills_started.inc_by(5);
        metrics.fills_finished.inc_by(2);
        metrics.fills_failed.inc(FetchFailure::Timeout);
        assert_eq!(metrics.fills_running(), 2);
    }

    #[test]
    fn numbers_of_others_are_asked_for_at_each_scrape() {
        let metrics = Metrics::new();
        assert!(!metrics.encode().contains("store_size"));
        metrics.scrape_from(|| Scraped { store_size_bytes: 7, store_evictions: 3, ..Scraped::default() });
        has(&metrics, "entrepot_store_size_bytes 7");
        has(&metrics, "entrepot_store_evictions_total 3");
        has(&metrics, "entrepot_access_log_dropped_total 0");
    }

    #[test]
    fn upstream_is_counted_and_timed() {
        let metrics = Metrics::new();
        metrics.upstream_request(UpstreamMethod::Head, UpstreamOutcome::Ok, Some(Duration::from_millis(7)));
        metrics.upstream_request(UpstreamMethod::Get, UpstreamOutcome::Unreachable, None);
        metrics.bytes_from_upstream.inc_by(9);
        has(&metrics, r#"entrepot_upstream_requests_total{method="get",outcome="unreachable"} 1"#);
        has(&metrics, "entrepot_upstream_head_seconds_count 1");
        has(&metrics, r#"entrepot_upstream_head_seconds_bucket{le="0.01"} 1"#);
        has(&metrics, "entrepot_received_from_upstream_bytes_total 9");
        assert!(metrics.encode().ends_with("# EOF\n"));
    }
}
