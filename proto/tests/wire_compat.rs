//! What etcd's clients send must mean here what it means to etcd.
//!
//! The schema is compared name by name and number by number with `etcd_schema.txt`, which was
//! written from etcd's .proto files and never from ours; hand-encoded messages then check that
//! the generated code follows the schema, ignores what it does not know, copies no bytes and
//! refuses what it must.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fmt::Debug;

use bytes::Bytes;
use keelson_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use keelson_proto::etcdserverpb::{
    Compare, DeleteRangeRequest, LeaseTimeToLiveResponse, MemberAddRequest, PutRequest,
    RangeRequest, RequestOp, ResponseHeader, StatusResponse, TxnRequest, WatchResponse,
    request_op::Request,
};
use keelson_proto::health::{
    HealthCheckResponse, HealthListResponse, health_check_response::ServingStatus,
};
use keelson_proto::mvccpb::{Event, KeyValue, event::EventType};
use keelson_proto::{FILE_DESCRIPTOR_SET, limits};
use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    ServiceDescriptorProto,
};

const ETCD_SCHEMA: &str = include_str!("etcd_schema.txt");

#[test]
fn schema_is_etcds() {
    let etcd: Vec<&str> = ETCD_SCHEMA
        .lines()
        .filter(|line| !line.starts_with('#'))
        .collect();
    assert!(etcd.len() > 130, "the table lost lines");

    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let mut ours = Vec::new();
    for file in &set.file {
        assert_eq!(file.syntax(), "proto3", "{}", file.name());
        let package = file.package();
        for message in &file.message_type {
            describe_message(&format!("{package}.{}", message.name()), message, &mut ours);
        }
        for entry in &file.enum_type {
            ours.push(describe_enum(&format!("{package}.{}", entry.name()), entry));
        }
        for service in &file.service {
            ours.push(describe_service(package, service));
        }
    }
    ours.sort();
    for (ours, etcd) in ours.iter().zip(&etcd) {
        assert_eq!(ours, etcd);
    }
    assert_eq!(ours.len(), etcd.len());
}

fn describe_message(name: &str, message: &DescriptorProto, out: &mut Vec<String>) {
    let mut fields: Vec<&FieldDescriptorProto> = message.field.iter().collect();
    fields.sort_by_key(|field| field.number());
    let mut line = format!("message {name}");
    for field in fields {
        line += &format!(
            " {}:{}:{}",
            field.number(),
            field.name(),
            describe_type(field, message)
        );
        if let Some(index) = field.oneof_index {
            line += &format!("|{}", message.oneof_decl[index as usize].name());
        }
    }
    out.push(line);
    for entry in &message.enum_type {
        out.push(describe_enum(&format!("{name}.{}", entry.name()), entry));
    }
    for nested in message.nested_type.iter().filter(|nested| !is_map(nested)) {
        describe_message(&format!("{name}.{}", nested.name()), nested, out);
    }
}

fn describe_type(field: &FieldDescriptorProto, message: &DescriptorProto) -> String {
    let named = field.type_name().trim_start_matches('.');
    if let Some(entry) = message.nested_type.iter().find(|nested| {
        is_map(nested) && field.r#type() == Type::Message && named.ends_with(nested.name())
    }) {
        let side = |index: usize| describe_type(&entry.field[index], entry);
        return format!("map<{},{}>", side(0), side(1));
    }
    let name = match field.r#type() {
        Type::Message | Type::Enum => named,
        Type::Bool => "bool",
        Type::Bytes => "bytes",
        Type::Int64 => "int64",
        Type::String => "string",
        Type::Uint32 => "uint32",
        Type::Uint64 => "uint64",
        other => panic!("etcd has no field of type {other:?}, see {}", field.name()),
    };
    match field.label() {
        Label::Repeated => format!("[{name}]"),
        Label::Optional | Label::Required => name.to_owned(),
    }
}

fn is_map(message: &DescriptorProto) -> bool {
    message
        .options
        .as_ref()
        .is_some_and(|options| options.map_entry())
}

fn describe_enum(name: &str, entry: &EnumDescriptorProto) -> String {
    let values: BTreeMap<i32, &str> = entry
        .value
        .iter()
        .map(|value| (value.number(), value.name()))
        .collect();
    values
        .iter()
        .fold(format!("enum {name}"), |line, (number, value)| {
            format!("{line} {number}:{value}")
        })
}

fn describe_service(package: &str, service: &ServiceDescriptorProto) -> String {
    let stream = |yes: bool| if yes { "~" } else { "" };
    let mut methods: Vec<String> = service
        .method
        .iter()
        .map(|method| {
            format!(
                "{}:{}{}>{}{}",
                method.name(),
                stream(method.client_streaming()),
                method.input_type().trim_start_matches('.'),
                stream(method.server_streaming()),
                method.output_type().trim_start_matches('.'),
            )
        })
        .collect();
    methods.sort();
    format!("service {package}.{} {}", service.name(), methods.join(" "))
}

/// Decodes the hand-written bytes to the message, and the message to the same bytes.
#[track_caller]
fn assert_wire<M: Debug + Default + Message + PartialEq>(bytes: &[u8], message: M) {
    assert_eq!(M::decode(bytes).unwrap(), message);
    assert_eq!(message.encode_to_vec(), bytes);
}

#[test]
fn a_key_value_in_bytes() {
    assert_wire(
        b"\x0a\x03foo\x10\x02\x18\xac\x02\x20\x07\x2a\x03bar\x30\x80\xa0\x05",
        KeyValue {
            key: "foo".into(),
            create_revision: 2,
            mod_revision: 300,
            version: 7,
            value: "bar".into(),
            lease: 86_016,
        },
    );
    // What is zero or empty is not sent.
    assert_wire(b"", KeyValue::default());
}

#[test]
fn a_range_request_in_bytes() {
    assert_wire(
        b"\x0a\x01a\x12\x01\x00\x18\x05\x20\x06\x28\x02\x30\x03\x38\x01\x40\x01\x48\x01\
          \x50\x01\x58\x02\x60\x03\x68\x04",
        RangeRequest {
            key: "a".into(),
            range_end: Bytes::from_static(b"\0"),
            limit: 5,
            revision: 6,
            sort_order: 2,
            sort_target: 3,
            serializable: true,
            keys_only: true,
            count_only: true,
            min_mod_revision: 1,
            max_mod_revision: 2,
            min_create_revision: 3,
            max_create_revision: 4,
        },
    );
}

/// The transaction kube-apiserver sends to create an object.
#[test]
fn a_create_transaction_in_bytes() {
    let compare = Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Mod.into(),
        key: "/k".into(),
        range_end: Bytes::new(),
        target_union: Some(TargetUnion::ModRevision(0)),
    };
    let put = PutRequest {
        key: "/k".into(),
        value: "v".into(),
        lease: 9,
        ..PutRequest::default()
    };
    assert_wire(
        b"\x0a\x08\x10\x02\x1a\x02/k\x30\x00\x12\x0b\x12\x09\x0a\x02/k\x12\x01v\x18\x09",
        TxnRequest {
            compare: vec![compare],
            success: vec![RequestOp {
                request: Some(Request::RequestPut(put)),
            }],
            failure: Vec::new(),
        },
    );
}

#[test]
fn a_range_compare_in_bytes() {
    assert_wire(
        b"\x08\x03\x10\x04\x1a\x01a\x40\x07\x82\x04\x01b",
        Compare {
            result: CompareResult::NotEqual.into(),
            target: CompareTarget::Lease.into(),
            key: "a".into(),
            range_end: "b".into(),
            target_union: Some(TargetUnion::Lease(7)),
        },
    );
}

#[test]
fn a_watch_response_in_bytes() {
    let event = Event {
        r#type: EventType::Delete.into(),
        kv: Some(KeyValue {
            key: "k".into(),
            mod_revision: 5,
            ..KeyValue::default()
        }),
        prev_kv: None,
    };
    assert_wire(
        b"\x0a\x08\x08\x01\x10\x02\x18\x05\x20\x03\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\
          \x5a\x09\x08\x01\x12\x05\x0a\x01k\x18\x05",
        WatchResponse {
            header: Some(ResponseHeader {
                cluster_id: 1,
                member_id: 2,
                revision: 5,
                raft_term: 3,
            }),
            watch_id: -1,
            events: vec![event],
            ..WatchResponse::default()
        },
    );
}

#[test]
fn other_messages_in_bytes() {
    assert_wire(
        b"\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x20\x0a\x2a\x01a\x2a\x01b",
        LeaseTimeToLiveResponse {
            ttl: -1,
            granted_ttl: 10,
            keys: vec!["a".into(), "b".into()],
            ..LeaseTimeToLiveResponse::default()
        },
    );
    assert_wire(
        b"\x0a\x08http://a\x10\x01",
        MemberAddRequest {
            peer_ur_ls: vec!["http://a".into()],
            is_learner: true,
        },
    );
    assert_wire(
        b"\x12\x053.6.0\x18\x40\x5a\x033.6\x60\x80\x01",
        StatusResponse {
            version: "3.6.0".into(),
            db_size: 64,
            storage_version: "3.6".into(),
            db_size_quota: 128,
            ..StatusResponse::default()
        },
    );
    let serving = HealthCheckResponse {
        status: ServingStatus::Serving.into(),
    };
    assert_wire(
        b"\x0a\x07\x0a\x01s\x12\x02\x08\x01",
        HealthListResponse {
            statuses: [("s".to_owned(), serving)].into(),
        },
    );
}

#[test]
fn unknown_fields_and_enum_values_pass() {
    // Field 100 once in every wire type, before, between and after known ones.
    let bytes: &[u8] = b"\xa0\x06\x05\x0a\x01k\xa1\x06\x01\x02\x03\x04\x05\x06\x07\x08\
        \xa2\x06\x02xx\x12\x01z\xa5\x06\x01\x02\x03\x04\xa3\x06\xa4\x06";
    let request = DeleteRangeRequest::decode(bytes).unwrap();
    assert_eq!(request.key, "k");
    assert_eq!(request.range_end, "z");
    assert!(!request.prev_kv);

    // A value of a later version arrives as its number; the API refuses it with its own error.
    let request = RangeRequest::decode(&b"\x28\x63"[..]).unwrap();
    assert_eq!(request.sort_order, 99);
}

#[test]
fn damaged_messages_are_errors() {
    let whole = b"\x0a\x03foo\x12\x03bar\x18\x09";
    assert!(PutRequest::decode(&whole[..]).is_ok());
    for cut in [1, 2, 4, 6, 8, 11] {
        assert!(PutRequest::decode(&whole[..cut]).is_err(), "cut at {cut}");
    }
    // A length beyond the message, a varint without end, a group where bytes belong.
    assert!(PutRequest::decode(&b"\x0a\xff\xff\xff\xff\x0fk"[..]).is_err());
    assert!(PutRequest::decode(&b"\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"[..]).is_err());
    assert!(PutRequest::decode(&b"\x0b\x0c"[..]).is_err());
}

#[test]
fn decoding_slices_the_frame() {
    let put = PutRequest {
        key: vec![b'k'; 300].into(),
        value: vec![b'v'; 100_000].into(),
        ..PutRequest::default()
    };
    let nested = TxnRequest {
        success: vec![RequestOp {
            request: Some(Request::RequestPut(put.clone())),
        }],
        ..TxnRequest::default()
    };
    let outer = TxnRequest {
        failure: vec![RequestOp {
            request: Some(Request::RequestTxn(nested)),
        }],
        ..TxnRequest::default()
    };

    let frame = Bytes::from(outer.encode_to_vec());
    let mut decoded = TxnRequest::decode(frame.clone()).unwrap();
    let Some(Request::RequestTxn(mut nested)) = decoded.failure.remove(0).request else {
        panic!("the nested transaction is lost");
    };
    let Some(Request::RequestPut(found)) = nested.success.remove(0).request else {
        panic!("the put is lost");
    };
    assert_eq!(found, put);
    assert_inside(&frame, &found.key);
    assert_inside(&frame, &found.value);
}

#[track_caller]
fn assert_inside(frame: &Bytes, field: &Bytes) {
    let (frame, field) = (frame.as_ptr_range(), field.as_ptr_range());
    assert!(
        frame.start <= field.start && field.end <= frame.end,
        "decoding copied: {field:?} is not inside {frame:?}"
    );
}

#[test]
fn transactions_nest_as_deep_as_the_limit_says() {
    let deepest = nest(limits::TXN_DEPTH_MAX);
    assert_eq!(
        TxnRequest::decode(&deepest.encode_to_vec()[..]).unwrap(),
        deepest
    );
    let deeper = nest(limits::TXN_DEPTH_MAX + 1);
    assert!(TxnRequest::decode(&deeper.encode_to_vec()[..]).is_err());
}

/// `depth` transactions within each other, the innermost with one put.
fn nest(depth: u32) -> TxnRequest {
    let mut request = Request::RequestPut(PutRequest::default());
    for _ in 1..depth {
        request = Request::RequestTxn(TxnRequest {
            success: vec![RequestOp {
                request: Some(request),
            }],
            ..TxnRequest::default()
        });
    }
    TxnRequest {
        success: vec![RequestOp {
            request: Some(request),
        }],
        ..TxnRequest::default()
    }
}
