//! Logs and metrics. Invariant: neither holds a secret, a header or a text that a caller chose; labels are the
//! contract's method names and gRPC codes.
//!
//! Absent on purpose: filters of the caller's making (a dependency at trace level prints headers) and a global
//! metrics recorder (several servers live in one test process).

mod log;
mod metrics;
mod scrape;

pub use log::{LogHandle, TelemetryError, init, install_panic_hook};
pub use metrics::{LeaseJob, MethodMetrics, ServerMetrics, methods_of};
pub use scrape::{MetricsListener, ScrapeError};
