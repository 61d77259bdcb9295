//! Carries what members say to one of them, on TCP, and has it suffer what the network says.
//!
//! A member's peer URL is its proxy's address. Who dials is read from the first frame of the connection, the hello
//! (`consensus/PROTOCOL.md`); whoever does not begin with one, such as a new member that asks who belongs to the
//! cluster, passes.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::network::Network;

const FRAME_MAGIC: &[u8] = b"KLFR";
/// Where a frame's header tells its sender.
const SENDER_OFFSET: usize = 24;
const SENDER_END: usize = SENDER_OFFSET + 8;
/// How often what waits looks whether it still has to.
const LOOK_EVERY: Duration = Duration::from_millis(5);
const CHUNK_BYTES: usize = 16 << 10;

/// Listens on this port of 127.0.0.1 for a member whose process listens at `target`, as long as the runtime lives.
pub async fn serve(port: u16, target: String, member: usize, network: Network) {
    let listener = TcpListener::bind(("127.0.0.1", port))
        .await
        .expect("the port was free a moment ago");
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("connections are accepted");
            let (target, network) = (target.clone(), network.clone());
            // A connection that ends with an error has ended; its sides dial again.
            tokio::spawn(async move { carry(stream, &target, member, network).await });
        }
    });
}

async fn carry(
    mut dialler: TcpStream,
    target: &str,
    member: usize,
    network: Network,
) -> io::Result<()> {
    dialler.set_nodelay(true)?;
    let mut first = vec![0; SENDER_END];
    let mut count = 0;
    while count < SENDER_END {
        match dialler.read(&mut first[count..]).await? {
            0 => return Ok(()),
            more => count += more,
        }
        if !first.starts_with(&FRAME_MAGIC[..count.min(FRAME_MAGIC.len())]) {
            break;
        }
    }
    first.truncate(count);
    let way = Way {
        from: sender(&first).and_then(|id| network.member(id)),
        to: Some(member),
        network,
    };
    let breaks = way.network.breaks(way.from, way.to);
    let back = way.back();
    way.pass().await;
    let mut served = TcpStream::connect(target).await?;
    served.set_nodelay(true)?;
    served.write_all(&first).await?;
    let (from_dialler, to_dialler) = dialler.split();
    let (from_served, to_served) = served.split();
    tokio::select! {
        ended = pump(from_dialler, to_served, &way) => ended,
        ended = pump(from_served, to_dialler, &back) => ended,
        () = way.broken(breaks) => Ok(()),
    }
}

fn sender(frame: &[u8]) -> Option<u64> {
    let id = frame.get(SENDER_OFFSET..SENDER_END)?;
    let is_frame = frame.starts_with(FRAME_MAGIC);
    is_frame.then(|| u64::from_le_bytes(id.try_into().expect("it is eight bytes")))
}

/// From one member to another.
struct Way {
    from: Option<usize>,
    to: Option<usize>,
    network: Network,
}

impl Way {
    fn back(&self) -> Way {
        Way {
            from: self.to,
            to: self.from,
            network: self.network.clone(),
        }
    }

    /// Waits until the way is open.
    async fn pass(&self) {
        while self.network.weather(self.from, self.to).is_cut {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until the connection is broken.
    async fn broken(&self, before: u64) {
        while self.network.breaks(self.from, self.to) == before {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// Passes bytes on until one side ends, or something is lost.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    way: &Way,
) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let count = from.read(&mut chunk).await?;
        if count == 0 {
            return Ok(());
        }
        let weather = way.network.weather(way.from, way.to);
        if fastrand::u32(0..1000) < weather.loss_permille {
            return Ok(());
        }
        let jitter = weather.jitter.mul_f64(fastrand::f64());
        if weather.delay + jitter > Duration::ZERO {
            tokio::time::sleep(weather.delay + jitter).await;
        }
        way.pass().await;
        to.write_all(&chunk[..count]).await?;
    }
}
