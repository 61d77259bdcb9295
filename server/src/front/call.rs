//! One gRPC call as its handler sees it.
//!
//! The connection task hands a [`Call`] to the [`Service`]; the service answers through
//! [`Replies`](super::Replies). Handlers are ordinary tasks of the connection's core, are not `Send`, and are
//! never cancelled: a handler learns that its client is gone from `Replies::closed`, from an error of
//! `Messages::next`, or from a send that fails, and then returns.

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tonic::Status;

use super::http2::RequestHead;
use super::messages::Messages;
use super::replies::Replies;

/// Whether each side sends one message or many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MethodKind {
    /// One request, one response.
    Unary,
    /// One request, many responses.
    ServerStream,
    /// Many requests, one response.
    ClientStream,
    /// Many of both.
    Bidi,
}

impl MethodKind {
    /// The name Prometheus metrics of gRPC use for it.
    #[must_use]
    pub const fn metric_name(self) -> &'static str {
        match self {
            MethodKind::Unary => "unary",
            MethodKind::ServerStream => "server_stream",
            MethodKind::ClientStream => "client_stream",
            MethodKind::Bidi => "bidi_stream",
        }
    }
}

/// A method a service offers. Services keep theirs in a `static` table.
#[derive(Debug, PartialEq, Eq)]
pub struct Method {
    /// Position in its service's table: what handlers `match` on and counters are indexed by.
    pub index: u16,
    /// Path on the wire: `/package.Service/Method`.
    pub path: &'static str,
    /// Who sends how many messages.
    pub kind: MethodKind,
}

impl Method {
    /// A table entry.
    #[must_use]
    pub const fn new(index: u16, path: &'static str, kind: MethodKind) -> Method {
        Method { index, path, kind }
    }

    /// `package.Service`.
    #[must_use]
    pub fn service(&self) -> &'static str {
        self.path[1..]
            .rsplit_once('/')
            .map_or("", |(service, _)| service)
    }

    /// The method's own name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.path.rsplit_once('/').map_or("", |(_, name)| name)
    }
}

/// Finds methods by path.
pub struct MethodTable {
    by_path: HashMap<&'static str, &'static Method>,
}

impl MethodTable {
    /// Indexes a table.
    ///
    /// # Panics
    /// When an entry's index is not its position, or a path is not `/service/method` or appears twice.
    #[must_use]
    pub fn new(methods: &'static [Method]) -> MethodTable {
        let mut by_path = HashMap::with_capacity(methods.len());
        for (position, method) in methods.iter().enumerate() {
            assert_eq!(
                usize::from(method.index),
                position,
                "index of {}",
                method.path
            );
            assert!(
                method.path.starts_with('/') && !method.service().is_empty(),
                "path {}",
                method.path
            );
            assert!(
                by_path.insert(method.path, method).is_none(),
                "{} appears twice",
                method.path
            );
        }
        MethodTable { by_path }
    }

    /// The method of a path.
    #[must_use]
    pub fn route(&self, path: &str) -> Option<&'static Method> {
        self.by_path.get(path).copied()
    }

    /// True when some method belongs to `service`.
    #[must_use]
    pub fn has_service(&self, service: &str) -> bool {
        self.by_path
            .values()
            .any(|method| method.service() == service)
    }
}

/// The gRPC services of a port, as one object per core.
pub trait Service: 'static {
    /// The method of a path, or `None`, which answers `Unimplemented`.
    fn route(&self, path: &str) -> Option<&'static Method>;

    /// Whether the service of a path is known; decides between etcd's two texts for an unknown path.
    fn has_service(&self, service: &str) -> bool;

    /// Serves one call. The future becomes a task of its own; it must end by itself (see the module story).
    fn serve(self: Rc<Self>, call: Call) -> impl Future<Output = ()> + 'static;
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
}

/// One call.
pub struct Call {
    /// What is called.
    pub method: &'static Method,
    /// The request's headers: the call's metadata, among them `token`, `hasleader` and `client-api-version`.
    pub head: Rc<RequestHead>,
    /// What the client sends.
    pub messages: Messages,
    /// What the client gets.
    pub reply: Replies,
    /// When the client stops waiting, if it said so. Nothing enforces it but the handler.
    pub deadline: Option<Instant>,
    /// Who calls.
    pub peer: Rc<Peer>,
}

/// Reads the value of the `grpc-timeout` header: one to eight digits and a unit.
pub(super) fn read_timeout(value: Option<&[u8]>) -> Result<Option<Duration>, Status> {
    let Some(value) = value else {
        return Ok(None);
    };
    let malformed = || {
        let shown = String::from_utf8_lossy(value).into_owned();
        Status::internal(format!("malformed grpc-timeout: {shown:?}"))
    };
    let [digits @ .., unit] = value else {
        return Err(malformed());
    };
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return Err(malformed());
    }
    let amount = digits
        .iter()
        .fold(0_u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    Ok(Some(match unit {
        b'H' => Duration::from_secs(amount * 3600),
        b'M' => Duration::from_secs(amount * 60),
        b'S' => Duration::from_secs(amount),
        b'm' => Duration::from_millis(amount),
        b'u' => Duration::from_micros(amount),
        b'n' => Duration::from_nanos(amount),
        _ => return Err(malformed()),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    static METHODS: [Method; 2] = [
        Method::new(0, "/a.B/One", MethodKind::Unary),
        Method::new(1, "/a.B/Two", MethodKind::Bidi),
    ];

    #[test]
    fn table_finds_paths_and_services() {
        let table = MethodTable::new(&METHODS);
        assert_eq!(table.route("/a.B/Two").unwrap().index, 1);
        assert!(table.route("/a.B/Three").is_none());
        assert!(table.has_service("a.B"));
        assert!(!table.has_service("a.C"));
        assert_eq!((METHODS[0].service(), METHODS[0].name()), ("a.B", "One"));
    }

    fn timeout(text: &str) -> Result<Option<Duration>, Status> {
        read_timeout(Some(text.as_bytes()))
    }

    #[test]
    fn timeouts_have_six_units() {
        assert_eq!(read_timeout(None).unwrap(), None);
        assert_eq!(timeout("2H").unwrap(), Some(Duration::from_secs(7200)));
        assert_eq!(timeout("3M").unwrap(), Some(Duration::from_secs(180)));
        assert_eq!(
            timeout("99999999S").unwrap(),
            Some(Duration::from_secs(99_999_999))
        );
        assert_eq!(timeout("5m").unwrap(), Some(Duration::from_millis(5)));
        assert_eq!(timeout("6u").unwrap(), Some(Duration::from_micros(6)));
        assert_eq!(timeout("7n").unwrap(), Some(Duration::from_nanos(7)));
    }

    #[test]
    fn malformed_timeouts_are_refused() {
        for text in ["", "S", "5", "5x", "123456789S", "-5S", "5 S", "1.5S"] {
            assert_eq!(
                timeout(text).unwrap_err().code(),
                tonic::Code::Internal,
                "{text:?}"
            );
        }
    }
}
