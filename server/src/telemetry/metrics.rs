//! What is counted. Invariant: every label value comes from the contract (methods) or from gRPC (codes), so that no
//! caller can make series; handles are made once, so that counting takes no lock.
//!
//! Absent on purpose: series per principal, path or address.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use keystead_domain::time::UnixMillis;
use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};
use prost::Message;
use prost_types::FileDescriptorSet;

/// The label of calls to methods that do not exist.
const UNKNOWN: &str = "unknown";

const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

// From a cached read to a slow HSM, in seconds.
const BUCKETS: [f64; 14] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

/// Everything that the server counts.
pub struct ServerMetrics {
    methods: HashMap<String, Arc<MethodMetrics>>,
    unknown: Arc<MethodMetrics>,
    /// 1 while the audit log takes no records, so that every request is refused.
    pub audit_failing: Gauge,
    /// Heads of the audit log that were anchored in the token.
    pub anchors: Counter,
    /// Attempts at that which failed.
    pub anchors_failed: Counter,
    unanchored: Gauge,
    /// 1 while sealed, 0 while open.
    pub sealed: Gauge,
    /// Things about keys that a person should mend.
    pub key_alarms: Gauge,
    /// Data keys that lack a way, or do not open.
    pub data_keys_lacking: Gauge,
    /// TLS handshakes that failed or timed out.
    pub handshakes_failed: Counter,
    /// Connections turned away at `limits.max_connections`.
    pub connections_refused: Counter,
    /// Handlers that panicked.
    pub panics: Counter,
    /// Entries of the index of leases that were put back or removed.
    pub lease_index_mended: Counter,
    leases_waiting: Gauge,
    leases_broken: Gauge,
    orphans: Counter,
    vanished: Counter,
    lease_jobs: [Gauge; LeaseJob::ALL.len()],
    handle: Option<PrometheusHandle>,
}

/// What looks after leases by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseJob {
    /// Finds what is due, and removes its logins.
    Revoke,
    /// Compares targets with leases.
    Compare,
    /// Compares leases with their index.
    Scrub,
}

impl LeaseJob {
    const ALL: [Self; 3] = [Self::Revoke, Self::Compare, Self::Scrub];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Revoke => "revoke",
            Self::Compare => "compare",
            Self::Scrub => "scrub",
        }
    }
}

/// The counters of one method.
#[derive(Debug)]
pub struct MethodMetrics {
    /// `/package.Service/Method`, or `unknown`.
    pub name: Arc<str>,
    codes: Vec<Counter>,
    seconds: Histogram,
}

impl MethodMetrics {
    /// Counts a finished request.
    pub fn finished(&self, code: tonic::Code, took: Duration) {
        let index = usize::try_from(i32::from(code)).unwrap_or(usize::MAX);
        if let Some(counter) = self.codes.get(index) {
            counter.increment(1);
        }
        self.seconds.record(took.as_secs_f64());
    }
}

impl ServerMetrics {
    /// Counts for these methods, to be shown by [`super::MetricsListener`].
    pub fn new(methods: impl IntoIterator<Item = String>) -> Result<Self, BuildError> {
        let recorder = PrometheusBuilder::new().set_buckets(&BUCKETS)?.build_recorder();
        let handle = recorder.handle();
        Ok(Self::register(methods, &recorder, Some(handle)))
    }

    /// Counts nothing: for a server without a metrics listener, whose samples nobody would drain.
    pub fn off(methods: impl IntoIterator<Item = String>) -> Self {
        Self::register(methods, &metrics::NoopRecorder, None)
    }

    fn register(
        methods: impl IntoIterator<Item = String>,
        recorder: &dyn Recorder,
        handle: Option<PrometheusHandle>,
    ) -> Self {
        let metadata = Metadata::new(module_path!(), Level::INFO, None);
        let method = |name: &str| {
            let code = |code: &'static str| {
                let labels = vec![Label::new("method", name.to_owned()), Label::new("code", code)];
                recorder.register_counter(&Key::from_parts("keystead_requests_total", labels), &metadata)
            };
            let labels = vec![Label::new("method", name.to_owned())];
            let key = Key::from_parts("keystead_request_seconds", labels);
            Arc::new(MethodMetrics {
                name: Arc::from(name),
                codes: CODES.into_iter().map(code).collect(),
                seconds: recorder.register_histogram(&key, &metadata),
            })
        };
        let counter = |name: &'static str| recorder.register_counter(&Key::from_name(name), &metadata);
        Self {
            unknown: method(UNKNOWN),
            methods: methods.into_iter().map(|name| (name.clone(), method(&name))).collect(),
            audit_failing: recorder.register_gauge(&Key::from_name("keystead_audit_failing"), &metadata),
            anchors: counter("keystead_audit_anchors_total"),
            anchors_failed: counter("keystead_audit_anchors_failed_total"),
            unanchored: recorder
                .register_gauge(&Key::from_name("keystead_audit_unanchored_entries"), &metadata),
            sealed: recorder.register_gauge(&Key::from_name("keystead_sealed"), &metadata),
            key_alarms: recorder.register_gauge(&Key::from_name("keystead_key_alarms"), &metadata),
            data_keys_lacking: recorder
                .register_gauge(&Key::from_name("keystead_data_keys_lacking"), &metadata),
            handshakes_failed: counter("keystead_handshakes_failed_total"),
            connections_refused: counter("keystead_connections_refused_total"),
            panics: counter("keystead_panics_total"),
            lease_index_mended: counter("keystead_lease_index_mended_total"),
            leases_waiting: recorder.register_gauge(&Key::from_name("keystead_leases_waiting"), &metadata),
            orphans: counter("keystead_logins_orphaned_total"),
            vanished: counter("keystead_logins_vanished_total"),
            leases_broken: recorder.register_gauge(&Key::from_name("keystead_leases_broken"), &metadata),
            lease_jobs: LeaseJob::ALL.map(|job| {
                let labels = vec![Label::new("job", job.as_str())];
                let key = Key::from_parts("keystead_lease_job_last_success_timestamp_seconds", labels);
                recorder.register_gauge(&key, &metadata)
            }),
            handle,
        }
    }

    /// Leases that are over and whose targets were not asked yet, and those whose records do not open.
    pub fn leases(&self, waiting: usize, broken: usize) {
        let number = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        self.leases_waiting.set(number(waiting));
        self.leases_broken.set(number(broken));
    }

    /// Logins that no lease owned, and leases whose logins were gone.
    pub fn reconciled(&self, orphans: usize, vanished: usize) {
        let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        self.orphans.increment(number(orphans));
        self.vanished.increment(number(vanished));
    }

    /// One of them came to its end, at this time by the wall clock. One that fails or hangs leaves the time as it is.
    pub fn lease_job_done(&self, job: LeaseJob, at: UnixMillis) {
        let seconds = Duration::from_millis(at.0).as_secs_f64();
        for (_, gauge) in LeaseJob::ALL.iter().zip(&self.lease_jobs).filter(|(known, _)| **known == job) {
            gauge.set(seconds);
        }
    }

    /// The counters of the method with this request path; of `unknown` if the contract has none.
    pub fn method(&self, path: &str) -> &Arc<MethodMetrics> {
        self.methods.get(path).unwrap_or(&self.unknown)
    }

    /// How many entries of the audit log no anchor covers.
    pub fn unanchored(&self, entries: u64) {
        // Enough for an alarm, whatever there is.
        self.unanchored.set(f64::from(u32::try_from(entries).unwrap_or(u32::MAX)));
    }

    /// Everything counted, in Prometheus' text format; empty if nothing is.
    pub fn render(&self) -> String {
        self.handle.as_ref().map(PrometheusHandle::render).unwrap_or_default()
    }

    /// Moves samples that wait in memory into their buckets; to be called every few seconds.
    pub(super) fn drain(&self) {
        if let Some(handle) = &self.handle {
            handle.run_upkeep();
        }
    }
}

impl std::fmt::Debug for ServerMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerMetrics").field("methods", &self.methods.len()).finish_non_exhaustive()
    }
}

/// The request paths of every method in an encoded descriptor set.
pub fn methods_of(descriptor_set: &[u8]) -> Result<Vec<String>, prost::DecodeError> {
    let set = FileDescriptorSet::decode(descriptor_set)?;
    let mut methods = Vec::new();
    for file in &set.file {
        for service in &file.service {
            for method in &service.method {
                methods.push(format!("/{}.{}/{}", file.package(), service.name(), method.name()));
            }
        }
    }
    Ok(methods)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_caller_can_make_a_series() {
        let metrics = ServerMetrics::new(["/a.B/C".to_owned()]).unwrap();
        metrics.method("/a.B/C").finished(tonic::Code::Ok, Duration::from_millis(2));
        metrics.method("/canary/canary").finished(tonic::Code::Unimplemented, Duration::ZERO);
        let text = metrics.render();
        assert!(text.contains(r#"keystead_requests_total{method="/a.B/C",code="OK"} 1"#), "{text}");
        assert!(text.contains(r#"keystead_requests_total{method="unknown",code="UNIMPLEMENTED"} 1"#));
        assert!(text.contains(r#"keystead_request_seconds_bucket{method="/a.B/C",le="0.0025"} 1"#));
        assert!(!text.contains("canary"));
    }

    #[test]
    fn method_names_come_from_descriptors() {
        let methods = methods_of(tonic_health::pb::FILE_DESCRIPTOR_SET).unwrap();
        assert!(methods.contains(&"/grpc.health.v1.Health/Check".to_owned()));
        assert!(methods_of(b"\xff").is_err());
    }
}
