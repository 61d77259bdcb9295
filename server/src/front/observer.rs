//! What the transport tells whoever counts.

use tonic::Code;

use super::call::Method;

/// Receives the transport's events of one core. Called on the request path: keep it to adding to counters.
pub trait Observer: 'static {
    /// A connection was adopted by this core.
    fn connection_opened(&self) {}
    /// It is gone.
    fn connection_closed(&self) {}
    /// A connection was closed unserved because of a limit.
    fn connection_refused(&self) {}
    /// Bytes came from a client's socket.
    fn bytes_received(&self, _count: usize) {}
    /// Bytes went into a client's socket.
    fn bytes_sent(&self, _count: usize) {}
    /// A call began.
    fn call_started(&self, _method: &'static Method) {}
    /// A call ended with this code. A call whose client went away ends with `Canceled`.
    fn call_handled(&self, _method: &'static Method, _code: Code) {}
    /// A request message was read by its handler.
    fn message_received(&self, _method: &'static Method) {}
    /// A response message was sent.
    fn message_sent(&self, _method: &'static Method) {}
}

/// Counts nothing.
pub struct NoObserver;

impl Observer for NoObserver {}
