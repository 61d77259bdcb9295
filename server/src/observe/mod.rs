//! What the member says about itself: metrics and the log.
//!
//! Cores count into their own [`CoreMetrics`] as they work; nothing is shared and nothing is locked.
//! A scrape on any core asks the [`Registry`], which sums the cores and writes Prometheus text.
//! Every metric name stands in `names.rs` and nowhere else; the gRPC methods that are counted stand
//! in `rpc.rs`. `log` sets up the process log once, before the first line.

mod cells;
mod core_metrics;
mod labelled;
pub mod log;
mod names;
mod process;
mod registry;
mod rpc;
mod text;
mod transfers;

pub use cells::{Counter, Gauge, Histogram, Shape};
pub use core_metrics::{
    ApplyOp, CheckKind, ClientMetrics, CoreMetrics, DiskMetrics, HEALTH_CHECK_NAMES, HealthMetrics,
    LeaseMetrics, MvccMetrics, RpcMetrics, RuntimeMetrics, ServerMetrics, WatchMetrics,
};
pub use names::metric_names;
pub use process::ProcessFacts;
pub use registry::{Facts, FeatureFact, Registry};
pub use rpc::{ClientApiVersion, METHODS, Method};
pub use text::CONTENT_TYPE as METRICS_CONTENT_TYPE;
