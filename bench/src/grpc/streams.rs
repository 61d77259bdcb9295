//! The open streams of one connection, found by their id without hashing.
//!
//! Ids of streams that a client opens are odd and grow, so id/2 modulo the size of the table is a
//! place that most streams have to themselves. An id whose place is taken, by a stream that lives
//! long, is skipped: HTTP/2 wants ids to grow, not to be without gaps.

use super::body::Body;

/// Places of a new table.
const PLACES_MIN: usize = 64;
/// Ids end here; a connection that used them all takes no more calls.
const STREAM_ID_MAX: u32 = (1 << 31) - 1;

/// How the body of a stream is handed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The one message of a unary call, whole.
    Unary,
    /// Each message whole.
    Messages,
    /// As it comes.
    Pieces,
}

/// One open stream.
#[derive(Debug)]
pub struct Stream {
    /// 0 if the place is free.
    pub id: u32,
    /// The caller's own name for it.
    pub token: u32,
    pub delivery: Delivery,
    /// The server's headers were seen.
    pub has_headers: bool,
    /// This side sends no more.
    pub is_half_closed: bool,
    /// What may still be sent; the server's SETTINGS can make it negative.
    pub send_window: i64,
    /// Received since the last WINDOW_UPDATE for it.
    pub received_bytes: u32,
    pub body: Body,
}

/// All streams of a connection.
#[derive(Debug)]
pub struct Streams {
    places: Vec<Stream>,
    open: usize,
    last_id: Option<u32>,
}

impl Streams {
    /// None yet.
    pub fn new() -> Self {
        Self {
            places: (0..PLACES_MIN).map(|_| Stream::free()).collect(),
            open: 0,
            last_id: None,
        }
    }

    /// How many are open.
    pub fn open(&self) -> usize {
        self.open
    }

    /// True if this side has opened that stream at some time.
    pub fn has_opened(&self, id: u32) -> bool {
        id % 2 == 1 && self.last_id.is_some_and(|last| id <= last)
    }

    /// Opens a stream with the next id; None if there are no more ids.
    pub fn open_next(
        &mut self,
        token: u32,
        delivery: Delivery,
        send_window: i64,
    ) -> Option<&mut Stream> {
        if self.open * 2 >= self.places.len() {
            self.grow();
        }
        let mut id = self.last_id.map_or(1, |last| last.saturating_add(2));
        while self.places[self.place(id)].id != 0 {
            id = id.saturating_add(2);
        }
        if id > STREAM_ID_MAX {
            return None;
        }
        self.last_id = Some(id);
        self.open += 1;
        let place = self.place(id);
        let stream = &mut self.places[place];
        stream.id = id;
        stream.token = token;
        stream.delivery = delivery;
        stream.has_headers = false;
        stream.is_half_closed = false;
        stream.send_window = send_window;
        stream.received_bytes = 0;
        stream.body.clear();
        Some(stream)
    }

    /// The open stream of that id.
    pub fn get(&mut self, id: u32) -> Option<&mut Stream> {
        let place = self.place(id);
        let stream = &mut self.places[place];
        (stream.id == id && id != 0).then_some(stream)
    }

    /// Ends a stream, and returns what it was for as long as nothing else is done here.
    pub fn close(&mut self, id: u32) -> Option<&mut Stream> {
        let place = self.place(id);
        let stream = &mut self.places[place];
        if stream.id != id || id == 0 {
            return None;
        }
        stream.id = 0;
        self.open -= 1;
        Some(stream)
    }

    /// All that are open.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Stream> {
        self.places.iter_mut().filter(|stream| stream.id != 0)
    }

    fn place(&self, id: u32) -> usize {
        // The table's length is a power of two.
        (id >> 1) as usize & (self.places.len() - 1)
    }

    fn grow(&mut self) {
        let wider = (0..self.places.len() * 2).map(|_| Stream::free()).collect();
        let narrow = std::mem::replace(&mut self.places, wider);
        for stream in narrow.into_iter().filter(|stream| stream.id != 0) {
            // Two that had places of their own have them in a table twice as long too.
            let place = self.place(stream.id);
            self.places[place] = stream;
        }
    }
}

impl Stream {
    fn free() -> Self {
        Self {
            id: 0,
            token: 0,
            delivery: Delivery::Unary,
            has_headers: false,
            is_half_closed: false,
            send_window: 0,
            received_bytes: 0,
            body: Body::default(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn long_lived_streams_keep_their_places() {
        let mut streams = Streams::new();
        let open = |streams: &mut Streams, token| {
            let stream = streams.open_next(token, Delivery::Unary, 1);
            stream.unwrap().id
        };
        let long: Vec<u32> = (0..10).map(|token| open(&mut streams, token)).collect();
        assert_eq!(long[..3], [1, 3, 5]);
        let mut last = 0;
        for token in 100..10_000 {
            let id = open(&mut streams, token);
            assert!(id > last && id % 2 == 1);
            last = id;
            assert_eq!(streams.get(id).unwrap().token, token);
            streams.close(id).unwrap();
            assert!(streams.close(id).is_none());
        }
        // Some of the long ones' places came round again and were left out.
        assert!(last > 2 * 9_910);
        for (token, &id) in long.iter().enumerate() {
            assert_eq!(streams.get(id).unwrap().token as usize, token);
        }
        assert_eq!(streams.open(), long.len());
        assert!(streams.has_opened(last) && !streams.has_opened(last + 2));
        assert!(!streams.has_opened(2));
    }

    #[test]
    fn the_table_grows_with_what_is_open() {
        let mut streams = Streams::new();
        let ids: Vec<u32> = (0..1_000)
            .map(|token| {
                let stream = streams.open_next(token, Delivery::Messages, 1);
                stream.unwrap().id
            })
            .collect();
        for (token, &id) in ids.iter().enumerate() {
            assert_eq!(streams.get(id).unwrap().token as usize, token);
        }
        assert_eq!(streams.iter_mut().count(), 1_000);
        assert!(streams.get(0).is_none());
        assert!(streams.close(0).is_none());
    }
}
