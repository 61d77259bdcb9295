//! Buffers that are lent out as `Bytes` and come back to be filled again: new memory costs the system far
//! more than what is written into it.

use std::sync::Arc;

use bytes::Bytes;

use crate::io::AlignedBuf;

/// Lends the content of a buffer out. What remains here is the only reference again, and the buffer can be
/// taken out of it, when all parts of the content are gone.
pub(super) fn lend(buf: AlignedBuf) -> (Arc<AlignedBuf>, Bytes) {
    let buf = Arc::new(buf);
    let bytes = Bytes::from_owner(Lent(Arc::clone(&buf)));
    (buf, bytes)
}

struct Lent(Arc<AlignedBuf>);

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        self.0.as_slice()
    }
}
