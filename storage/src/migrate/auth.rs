//! Users and roles of etcd as the bytes of [`Meta::auth`](crate::snapshot::Meta::auth).
//!
//! The messages of etcd are kept as they are, for the auth store that is to come. The layout of the bytes is in
//! `storage/FORMAT.md`.

use prost::Message;

use crate::etcd::{EtcdAuth, NamedMessage};

/// The message.
#[derive(Clone, PartialEq, Message)]
struct AuthBytes {
    #[prost(bool, tag = "1")]
    enabled: bool,
    #[prost(uint64, tag = "2")]
    revision: u64,
    #[prost(message, repeated, tag = "3")]
    users: Vec<NamedBytes>,
    #[prost(message, repeated, tag = "4")]
    roles: Vec<NamedBytes>,
}

#[derive(Clone, PartialEq, Message)]
struct NamedBytes {
    #[prost(bytes = "vec", tag = "1")]
    name: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    message: Vec<u8>,
}

/// The bytes of a snapshot's meta page.
#[must_use]
pub fn encode_auth(auth: &EtcdAuth) -> Vec<u8> {
    let named = |messages: &[NamedMessage]| {
        let messages = messages.iter();
        messages
            .map(|named| NamedBytes {
                name: named.name.clone(),
                message: named.message.clone(),
            })
            .collect()
    };
    let message = AuthBytes {
        enabled: auth.is_enabled,
        revision: auth.revision,
        users: named(&auth.users),
        roles: named(&auth.roles),
    };
    message.encode_to_vec()
}

/// What such bytes say; `None` if they do not decode.
#[must_use]
pub fn decode_auth(bytes: &[u8]) -> Option<EtcdAuth> {
    let message = AuthBytes::decode(bytes).ok()?;
    let named = |messages: Vec<NamedBytes>| {
        let messages = messages.into_iter();
        messages
            .map(|named| NamedMessage {
                name: named.name,
                message: named.message,
            })
            .collect()
    };
    Some(EtcdAuth {
        is_enabled: message.enabled,
        revision: message.revision,
        users: named(message.users),
        roles: named(message.roles),
    })
}
