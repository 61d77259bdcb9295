//! Messages out of the DATA of one stream: prefixes read, bodies handed on whole or in pieces.
//!
//! A message that lies in one frame, the usual case, is handed on where it lies. Only one that is
//! cut by frames is gathered, and a listing of many megabytes is not gathered at all if its reader
//! takes pieces.

use super::PREFIX_BYTES;
use super::failure::Failure;
use super::session::Event;
use super::streams::Delivery;

/// Longest answer taken; etcd itself sets no bound.
const MESSAGE_BYTES_MAX: usize = 1 << 30;
/// A buffer larger than this is given back after its message.
const KEPT_BYTES_MAX: usize = 64 << 10;

/// What has been read of a stream's body.
#[derive(Debug, Default)]
pub struct Body {
    prefix: [u8; PREFIX_BYTES],
    prefix_bytes: usize,
    /// Bytes of the message at hand that are still to come; None between messages.
    missing_bytes: Option<usize>,
    gathered: Vec<u8>,
    /// Messages begun.
    pub message_count: u32,
}

impl Body {
    /// Forgets the last stream, but not its buffer.
    pub fn clear(&mut self) {
        self.prefix_bytes = 0;
        self.missing_bytes = None;
        self.message_count = 0;
        self.clear_gathered();
    }

    /// True if no message is cut off.
    pub fn is_whole(&self) -> bool {
        self.prefix_bytes == 0 && self.missing_bytes.is_none()
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// What comes is no message; the stream is of no further use.
    pub fn take(
        &mut self,
        mut data: &[u8],
        delivery: Delivery,
        mut on_event: impl FnMut(Event<'_>),
    ) -> Result<(), Failure> {
        loop {
            let missing = match self.missing_bytes {
                Some(missing) => missing,
                None => match self.take_prefix(&mut data)? {
                    Some(bytes) => bytes,
                    None => return Ok(()),
                },
            };
            let (part, rest) = data.split_at(missing.min(data.len()));
            data = rest;
            let missing = missing - part.len();
            self.missing_bytes = (missing > 0).then_some(missing);
            if delivery == Delivery::Pieces {
                on_event(Event::Piece {
                    bytes: part,
                    is_last: missing == 0,
                });
            } else if missing == 0 && self.gathered.is_empty() {
                on_event(Event::Message(part));
            } else {
                self.gathered.extend_from_slice(part);
                if missing == 0 {
                    on_event(Event::Message(&self.gathered));
                    self.clear_gathered();
                }
            }
            if data.is_empty() {
                return Ok(());
            }
        }
    }

    /// Reads a prefix, or as much of it as there is, and tells how long its message is.
    fn take_prefix(&mut self, data: &mut &[u8]) -> Result<Option<usize>, Failure> {
        let wanted = PREFIX_BYTES - self.prefix_bytes;
        let (part, rest) = data.split_at(wanted.min(data.len()));
        self.prefix[self.prefix_bytes..][..part.len()].copy_from_slice(part);
        self.prefix_bytes += part.len();
        *data = rest;
        if self.prefix_bytes < PREFIX_BYTES {
            return Ok(None);
        }
        self.prefix_bytes = 0;
        let [flag, length @ ..] = self.prefix;
        if flag != 0 {
            return Err(Failure::Answer("compressed without being asked to"));
        }
        let bytes = u32::from_be_bytes(length) as usize;
        if bytes > MESSAGE_BYTES_MAX {
            return Err(Failure::Answer("too long"));
        }
        self.message_count = self.message_count.saturating_add(1);
        Ok(Some(bytes))
    }

    fn clear_gathered(&mut self) {
        if self.gathered.capacity() > KEPT_BYTES_MAX {
            self.gathered = Vec::new();
        }
        self.gathered.clear();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const TWO_MESSAGES: &[u8] = &[0, 0, 0, 0, 3, 7, 8, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 5];

    fn messages(parts: &[&[u8]]) -> Result<(Vec<Vec<u8>>, bool), Failure> {
        let mut body = Body::default();
        let mut seen = Vec::new();
        for part in parts {
            body.take(part, Delivery::Messages, |event| match event {
                Event::Message(message) => seen.push(message.to_vec()),
                _ => panic!("messages were asked for"),
            })?;
        }
        assert!(body.message_count as usize >= seen.len());
        Ok((seen, body.is_whole()))
    }

    #[test]
    fn messages_are_the_same_however_they_are_cut() {
        let wanted = vec![vec![7, 8, 9], vec![], vec![5]];
        for at in 0..TWO_MESSAGES.len() {
            let (left, right) = TWO_MESSAGES.split_at(at);
            assert_eq!(messages(&[left, right]).unwrap(), (wanted.clone(), true));
            assert_eq!(messages(&[left]).unwrap().1, [0, 8, 13].contains(&at));
        }
        let bytes: Vec<&[u8]> = TWO_MESSAGES.chunks(1).collect();
        assert_eq!(messages(&bytes).unwrap(), (wanted, true));
    }

    #[test]
    fn pieces_add_up_to_the_messages() {
        for at in 0..TWO_MESSAGES.len() {
            let (left, right) = TWO_MESSAGES.split_at(at);
            let mut body = Body::default();
            let (mut bytes, mut ends) = (Vec::new(), 0);
            for part in [left, right] {
                let taken = body.take(part, Delivery::Pieces, |event| match event {
                    Event::Piece {
                        bytes: piece,
                        is_last,
                    } => {
                        bytes.extend_from_slice(piece);
                        ends += usize::from(is_last);
                    }
                    _ => panic!("pieces were asked for"),
                });
                taken.unwrap();
            }
            assert_eq!((bytes, ends), (vec![7, 8, 9, 5], 3), "cut at {at}");
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        assert!(messages(&[&[1, 0, 0, 0, 0]]).is_err());
        assert!(messages(&[&[0, 0xff, 0, 0, 0]]).is_err());
    }
}
