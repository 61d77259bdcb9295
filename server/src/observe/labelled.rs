//! The series that have labels of their own: what the cells of all cores add up to, label by label.
//!
//! Label names are etcd's, in alphabetical order, as the Go library writes them. Series that a
//! client or an operator brings into being (API versions, operations, checks) appear with their
//! first count, as in etcd; gRPC methods are all there from the start.

use super::cells::Counter;
use super::core_metrics::{ApplyOp, CODE_COUNT, CheckKind, CoreMetrics, HEALTH_CHECK_NAMES};
use super::registry::Registry;
use super::rpc::{ClientApiVersion, Method};
use super::text::Text;

/// gRPC status codes as the `grpc_code` label writes them, by number.
const CODE_LABELS: [&str; CODE_COUNT] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

pub(super) fn cluster_version(name: &str, registry: &Registry, text: &mut Text) {
    text.sample(
        name,
        &[("cluster_version", registry.facts().cluster_version)],
        1.0,
    );
}

pub(super) fn server_version(name: &str, registry: &Registry, text: &mut Text) {
    text.sample(
        name,
        &[("server_version", registry.facts().server_version)],
        1.0,
    );
}

pub(super) fn build_info(name: &str, registry: &Registry, text: &mut Text) {
    text.sample(name, &[("version", registry.facts().keelson_version)], 1.0);
}

pub(super) fn server_id(name: &str, registry: &Registry, text: &mut Text) {
    let id = format!("{:x}", registry.facts().member_id);
    text.sample(name, &[("server_id", &id)], 1.0);
}

pub(super) fn quota(name: &str, registry: &Registry, text: &mut Text) {
    text.sample(
        name,
        &[],
        registry.facts().quota_backend_bytes.unwrap_or(0) as f64,
    );
}

pub(super) fn features(name: &str, registry: &Registry, text: &mut Text) {
    for feature in &registry.facts().features {
        let labels = [("name", feature.name), ("stage", feature.stage)];
        text.sample(name, &labels, f64::from(u8::from(feature.enabled)));
    }
}

pub(super) fn alarms(name: &str, registry: &Registry, text: &mut Text) {
    let id = format!("{:x}", registry.facts().member_id);
    let corrupt = registry.sum_gauge(|core| &core.server.alarm_corrupt);
    let nospace = registry.sum_gauge(|core| &core.server.alarm_nospace);
    for (alarm, active) in [("CORRUPT", corrupt), ("NOSPACE", nospace)] {
        let labels = [("alarm_type", alarm), ("server_id", &id)];
        text.sample(name, &labels, active as f64);
    }
}

pub(super) fn client_requests(name: &str, registry: &Registry, text: &mut Text) {
    for version in ClientApiVersion::all() {
        let index = version.index();
        let cores = registry.cores().iter();
        let (unary, stream) = cores.fold((0, 0), |(unary, stream), core| {
            (
                unary + core.client.requests_unary[index].value(),
                stream + core.client.requests_stream[index].value(),
            )
        });
        for (kind, count) in [("stream", stream), ("unary", unary)] {
            if count > 0 {
                let labels = [("client_api_version", version.label()), ("type", kind)];
                text.sample(name, &labels, count as f64);
            }
        }
    }
}

pub(super) fn apply_durations(name: &str, registry: &Registry, text: &mut Text) {
    for op in ApplyOp::ALL {
        for (index, success) in ["false", "true"].into_iter().enumerate() {
            let sums = registry.sum_histogram(|core| &core.server.apply[op as usize][index]);
            if sums.buckets.iter().any(|count| *count > 0) {
                let labels = [("op", op.label()), ("success", success), ("version", "v3")];
                text.histogram(name, &labels, &sums);
            }
        }
    }
}

pub(super) fn range_durations(name: &str, registry: &Registry, text: &mut Text) {
    for (index, success) in ["false", "true"].into_iter().enumerate() {
        let sums = registry.sum_histogram(|core| &core.server.range[index]);
        if sums.buckets.iter().any(|count| *count > 0) {
            text.histogram(name, &[("success", success)], &sums);
        }
    }
}

pub(super) fn health_last(name: &str, registry: &Registry, text: &mut Text) {
    for kind in CheckKind::ALL {
        for (index, check) in HEALTH_CHECK_NAMES.into_iter().enumerate() {
            let cores = registry.cores().iter();
            let newest = cores
                .map(|core| core.health.last[kind as usize][index].value())
                .max();
            if let Some(newest) = newest.filter(|newest| *newest > 0) {
                let labels = [("name", check), ("type", kind.label())];
                text.sample(name, &labels, (newest % 2) as f64);
            }
        }
    }
}

pub(super) fn health_counts(name: &str, registry: &Registry, text: &mut Text) {
    for kind in CheckKind::ALL {
        for (index, check) in HEALTH_CHECK_NAMES.into_iter().enumerate() {
            for (success, status) in ["error", "success"].into_iter().enumerate() {
                let cores = registry.cores().iter();
                let count: u64 = cores
                    .map(|core| core.health.checks[kind as usize][index][success].value())
                    .sum();
                if count > 0 {
                    let labels = [("name", check), ("status", status), ("type", kind.label())];
                    text.sample(name, &labels, count as f64);
                }
            }
        }
    }
}

/// The labels of a method, in the order of the Go library.
fn method_labels(method: Method) -> [(&'static str, &'static str); 3] {
    [
        ("grpc_method", method.row().name()),
        ("grpc_service", method.row().service()),
        ("grpc_type", method.row().kind.metric_name()),
    ]
}

pub(super) fn rpc_started(name: &str, registry: &Registry, text: &mut Text) {
    per_method(name, registry, text, |core, method| {
        &core.rpc.started[method]
    });
}

pub(super) fn rpc_received(name: &str, registry: &Registry, text: &mut Text) {
    per_method(name, registry, text, |core, method| {
        &core.rpc.received[method]
    });
}

pub(super) fn rpc_sent(name: &str, registry: &Registry, text: &mut Text) {
    per_method(name, registry, text, |core, method| &core.rpc.sent[method]);
}

fn per_method(
    name: &str,
    registry: &Registry,
    text: &mut Text,
    cell: fn(&CoreMetrics, usize) -> &Counter,
) {
    for method in Method::ALL {
        let cores = registry.cores().iter();
        let count: u64 = cores.map(|core| cell(core, *method as usize).value()).sum();
        text.sample(name, &method_labels(*method), count as f64);
    }
}

pub(super) fn rpc_handled(name: &str, registry: &Registry, text: &mut Text) {
    for method in Method::ALL {
        let [method_label, service, kind] = method_labels(*method);
        for (code, label) in CODE_LABELS.into_iter().enumerate() {
            let cores = registry.cores().iter();
            let count: u64 = cores
                .map(|core| core.rpc.handled[*method as usize][code].value())
                .sum();
            text.sample(
                name,
                &[("grpc_code", label), method_label, service, kind],
                count as f64,
            );
        }
    }
}
