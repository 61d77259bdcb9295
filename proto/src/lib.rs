//! The wire types: etcd's client API as Rust types, its error table and its limits.
//!
//! The modules named after protobuf packages are generated from `proto/*.proto` by `build.rs`.
//! Every other crate speaks these types; this one depends on none of them and does no work of
//! its own. What holds here:
//!
//! 1. Names and numbers are etcd's, and `tests/wire_compat.rs` compares each of them.
//! 2. Every protobuf `bytes` field is a [`bytes::Bytes`]; decoding from a `Bytes` buffer slices
//!    that buffer and copies nothing. A field kept longer than its request therefore keeps the
//!    whole buffer alive, so whoever stores one copies it.
//! 3. Every answer that is an error comes from [`ApiError`], so codes and texts live in one table.
//!
//! The feature `client` adds the generated gRPC clients (`kv_client` and so on); it changes no
//! message.

mod error;
pub mod http2;
pub mod limits;

pub use error::ApiError;

/// All `.proto` files as one encoded `google.protobuf.FileDescriptorSet`.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Declares one module per protobuf package. Generated code follows its own style, so the
/// workspace's lints stay outside.
macro_rules! generated {
    ($($(#[$doc:meta])* $module:ident = $package:literal;)+) => {$(
        $(#[$doc])*
        #[allow(missing_docs, clippy::all, rustdoc::all)]
        pub mod $module {
            include!(concat!(env!("OUT_DIR"), "/", $package, ".rs"));
        }
    )+};
}

generated! {
    /// Users, roles and permissions.
    authpb = "authpb";
    /// KV, Watch, Lease, Cluster, Maintenance and Auth.
    etcdserverpb = "etcdserverpb";
    /// `grpc.health.v1`.
    health = "grpc.health.v1";
    /// Key-value pairs and watch events.
    mvccpb = "mvccpb";
    /// Elections served by the member.
    v3electionpb = "v3electionpb";
    /// Locks served by the member.
    v3lockpb = "v3lockpb";
}
