//! Members on one core, with real sockets between them.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::future::Future;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use keelson_consensus::replicate::{
    FrameBuilder, FrameHeader, Hello, Item, VERSION_MAX, VERSION_MIN, Welcome,
};
use keelson_storage::ids::{ClusterId, CoreId, MemberId, ShardId};
use keelson_storage::state::Member;

use super::*;
use crate::runtime::{CoreLink, RuntimeConfig, sleep, spawn_blocking, start, timeout, yield_now};

const CLUSTER: ClusterId = ClusterId(0xc1);
const SHARD: ShardId = ShardId(3);

/// Runs a test on a core.
fn on_core<F: Future<Output = ()> + 'static>(test: fn() -> F) {
    let config = RuntimeConfig {
        pin: false,
        ..RuntimeConfig::default()
    };
    let seats = |links: &[CoreLink]| links.iter().map(|_| ()).collect::<Vec<()>>();
    let main = move |_, ()| async move {
        let limit = Duration::from_secs(60);
        timeout(limit, test()).await.expect("the test hangs");
    };
    let cores = start(&[CoreId(0)], &config, seats, main).unwrap();
    cores.join().unwrap();
}

fn config(me: u64) -> PeerConfig {
    PeerConfig {
        refused_retry: Duration::from_millis(100),
        ..PeerConfig::new(MemberId(me), CLUSTER, CoreId(0), me * 1000)
    }
}

/// A port that is free, and its URL.
fn port() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

fn members(urls: &[(u64, &str)]) -> BTreeMap<MemberId, Member> {
    let rows = urls.iter().map(|&(id, url)| {
        let member = Member {
            id,
            peer_urls: vec![url.to_owned()],
            ..Member::default()
        };
        (MemberId(id), member)
    });
    rows.collect()
}

/// Members that know each other.
fn cluster<const N: usize>() -> ([Peers; N], BTreeMap<MemberId, Member>) {
    let mut ports: Vec<_> = (0..N).map(|_| port()).collect();
    let urls: Vec<(u64, String)> = (1..).zip(ports.iter().map(|port| port.1.clone())).collect();
    let urls: Vec<(u64, &str)> = urls.iter().map(|(id, url)| (*id, url.as_str())).collect();
    let members = members(&urls);
    let peers = std::array::from_fn(|at| {
        let listener = ports.remove(0).0;
        let peers = Peers::start(config(at as u64 + 1), vec![listener]).unwrap();
        peers.set_members(&members);
        peers
    });
    (peers, members)
}

fn item(number: u64, body_bytes: usize) -> Item {
    let mut body = number.to_le_bytes().to_vec();
    body.resize(body_bytes.max(8), 0);
    Item::Server {
        kind: 64,
        body: Bytes::from(body),
    }
}

fn number(item: &Item) -> u64 {
    let Item::Server { body, .. } = item else {
        panic!("not one of ours: {item:?}");
    };
    u64::from_le_bytes(body[..8].try_into().unwrap())
}

async fn heard(peers: &Peers) -> Heard {
    loop {
        match peers.take() {
            Some(heard) => return heard,
            None => peers.event().wait().await,
        }
    }
}

async fn reachable(peers: &Peers, member: u64) {
    while heard(peers).await != Heard::Reachable(MemberId(member)) {}
}

/// The next item, with its sender.
async fn next_item(peers: &Peers) -> (u64, u64) {
    loop {
        if let Heard::Item { from, shard, item } = heard(peers).await {
            assert_eq!(shard, SHARD);
            return (from.0, number(&item));
        }
    }
}

/// The port of a member that was stopped.
async fn bind_again(members: &BTreeMap<MemberId, Member>, member: u64) -> TcpListener {
    let address = members[&MemberId(member)].peer_urls[0].replace("http://", "");
    loop {
        match TcpListener::bind(&address) {
            Ok(listener) => return listener,
            Err(_) => sleep(Duration::from_millis(5)).await,
        }
    }
}

async fn until(mut holds: impl FnMut() -> bool) {
    while !holds() {
        sleep(Duration::from_millis(5)).await;
    }
}

fn facts(peers: &Peers, member: u64) -> PeerFacts {
    let facts = peers.facts().into_iter();
    facts
        .clone()
        .find(|facts| facts.member.0 == member)
        .unwrap()
}

#[test]
fn three_members_hear_each_other_in_order() {
    on_core(|| async {
        const COUNT: u64 = 300;
        let (all, _) = cluster::<3>();
        for (peers, me) in all.iter().zip(1..) {
            let mut others: Vec<u64> = (1..=3).filter(|other| *other != me).collect();
            while !others.is_empty() {
                let Heard::Reachable(member) = heard(peers).await else {
                    panic!("nobody has said anything");
                };
                others.retain(|other| *other != member.0);
            }
        }
        for number in 0..COUNT {
            for (peers, me) in all.iter().zip(1..) {
                for other in (1..=3).filter(|other| *other != me) {
                    let body_bytes = if number % 50 == 7 { 300_000 } else { 20 };
                    let sent = peers.send(MemberId(other), SHARD, &item(number, body_bytes));
                    assert!(sent);
                }
                if number % 7 == 0 {
                    peers.flush();
                    yield_now().await;
                }
            }
        }
        all.iter().for_each(Peers::flush);
        for peers in &all {
            let mut next = BTreeMap::new();
            for _ in 0..2 * COUNT {
                let (from, number) = next_item(peers).await;
                let expected = next.entry(from).or_insert(0);
                assert_eq!(number, *expected);
                *expected += 1;
            }
            assert_eq!(next.len(), 2);
            assert_eq!(peers.take(), None);
        }
        let (sent, received) = (facts(&all[0], 2), facts(&all[1], 1));
        assert_eq!(sent.sent_frame_count, received.received_frame_count);
        assert_eq!(sent.sent_bytes, received.received_bytes);
        assert!(sent.sent_frame_count < COUNT / 4, "rounds become frames");
        assert!(sent.sent_bytes > 6 * 300_000);
        assert_eq!((sent.connect_count, sent.dropped_item_count), (1, 0));
        assert!(sent.connected_since_ms.is_some() && sent.heard_since_ms.is_some());
        assert!(sent.round_trip_us.is_some_and(|us| us > 0));
        all.iter().for_each(Peers::stop);
    });
}

#[test]
fn a_member_that_restarts_is_found_again() {
    on_core(|| async {
        let ([a, b], members) = cluster::<2>();
        reachable(&a, 2).await;
        b.stop();
        assert!(!b.send(MemberId(1), SHARD, &item(0, 8)));
        while heard(&a).await != Heard::Unreachable(MemberId(2)) {}
        assert!(!a.send(MemberId(2), SHARD, &item(1, 8)), "there is no link");
        assert_eq!(facts(&a, 2).dropped_item_count, 1);
        let listener = bind_again(&members, 2).await;
        let b = Peers::start(config(2), vec![listener]).unwrap();
        b.set_members(&members);
        reachable(&a, 2).await;
        reachable(&b, 1).await;
        assert!(a.send(MemberId(2), SHARD, &item(2, 8)));
        a.flush();
        assert_eq!(next_item(&b).await, (1, 2));
        assert_eq!(facts(&a, 2).connect_count, 2);
        a.stop();
        b.stop();
    });
}

#[test]
fn another_url_is_followed() {
    on_core(|| async {
        let ([a, b], mut members) = cluster::<2>();
        reachable(&a, 2).await;
        b.stop();
        let (listener, url) = port();
        let b = Peers::start(config(2), vec![listener]).unwrap();
        // One that cannot be dialled is passed over.
        let urls = vec!["https://127.0.0.1:1".to_owned(), url];
        members.get_mut(&MemberId(2)).unwrap().peer_urls = urls;
        a.set_members(&members);
        b.set_members(&members);
        while heard(&a).await != Heard::Unreachable(MemberId(2)) {}
        reachable(&a, 2).await;
        a.stop();
        b.stop();
    });
}

#[test]
fn members_of_other_clusters_and_a_member_itself_are_refused() {
    on_core(|| async {
        let ((first, first_url), (second, second_url)) = (port(), port());
        let members = members(&[(1, &first_url), (2, &second_url), (3, &first_url)]);
        let a = Peers::start(config(1), vec![first]).unwrap();
        let stranger = PeerConfig {
            cluster: ClusterId(0xc2),
            ..config(2)
        };
        let b = Peers::start(stranger, vec![second]).unwrap();
        a.set_members(&members);
        b.set_members(&members);
        // The stranger, and this member under another one's URL, more than once each.
        until(|| a.refused_connection_count() > 6 && b.refused_connection_count() > 1).await;
        for peers in [&a, &b] {
            assert_eq!(peers.take(), None);
            let connects = peers
                .facts()
                .iter()
                .map(|facts| facts.connect_count)
                .sum::<u64>();
            assert_eq!(connects, 0);
        }
        a.stop();
        b.stop();
    });
}

#[test]
fn a_removed_member_is_refused_until_it_is_added_again() {
    on_core(|| async {
        let ([a, b], members) = cluster::<2>();
        reachable(&a, 2).await;
        reachable(&b, 1).await;
        let mut fewer = members.clone();
        fewer.remove(&MemberId(2));
        a.set_members(&fewer);
        assert!(!a.send(MemberId(2), SHARD, &item(1, 8)));
        while heard(&b).await != Heard::Unreachable(MemberId(1)) {}
        until(|| a.refused_connection_count() > 1).await;
        assert_eq!(facts(&b, 1).connect_count, 1);
        assert_eq!((facts(&b, 1).heard_since_ms, a.facts().len()), (None, 0));
        a.set_members(&members);
        reachable(&b, 1).await;
        reachable(&a, 2).await;
        b.send(MemberId(1), SHARD, &item(5, 8));
        b.flush();
        assert_eq!(next_item(&a).await, (2, 5));
        a.stop();
        b.stop();
    });
}

#[test]
fn a_member_that_was_away_lets_in_whom_the_others_know() {
    on_core(|| async {
        let ([a, b, c], members) = cluster::<3>();
        reachable(&a, 3).await;
        reachable(&c, 1).await;
        c.stop();
        // The third comes back as it was before the first joined.
        let listener = bind_again(&members, 3).await;
        let c = Peers::start(config(3), vec![listener]).unwrap();
        let mut old = members.clone();
        old.remove(&MemberId(1));
        c.set_members(&old);
        reachable(&c, 1).await;
        reachable(&a, 3).await;
        assert!(a.send(MemberId(3), SHARD, &item(1, 8)));
        a.flush();
        assert_eq!(next_item(&c).await, (1, 1));
        assert!(c.send(MemberId(1), SHARD, &item(2, 8)));
        c.flush();
        assert_eq!(next_item(&a).await, (3, 2));
        // Its list catches up, step by step, and nothing is torn down.
        c.set_members(&old);
        c.set_members(&members);
        assert_eq!(facts(&c, 1).connect_count, 1);
        assert!(facts(&c, 1).connected_since_ms.is_some());
        // Then the first leaves, and whoever still knows it does not bring it back.
        c.set_members(&old);
        let refused_count = c.refused_connection_count();
        until(|| c.refused_connection_count() > refused_count + 2).await;
        assert_eq!(c.facts().len(), 1);
        [a, b, c].iter().for_each(Peers::stop);
    });
}

/// What member 3 says as its hello to member 1.
fn third_hello() -> Hello {
    Hello {
        cluster: CLUSTER,
        from: MemberId(3),
        to: MemberId(1),
        versions: (VERSION_MIN, VERSION_MAX),
        core: CoreId(0),
        start: 3,
    }
}

/// A frame of member 3 to member 1.
fn third_frame(sequence: u64, from: u64) -> Vec<u8> {
    let mut builder = FrameBuilder::new();
    builder.push(SHARD, &item(sequence, 100));
    let header = FrameHeader {
        version: VERSION_MAX,
        cluster: CLUSTER,
        from: MemberId(from),
        to: MemberId(1),
        sequence,
        taken: 0,
    };
    builder.finish(&header).to_vec()
}

/// Writes `bytes` and reads until the other side ends the connection.
async fn say(url: &str, bytes: Vec<u8>) -> Vec<u8> {
    let address = url.replace("http://", "");
    let talk = move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        stream.write_all(&bytes).unwrap();
        let mut answer = Vec::new();
        // What it has not read when it closes makes this a reset.
        let _ = stream.read_to_end(&mut answer);
        answer
    };
    spawn_blocking(talk).await.unwrap()
}

#[test]
fn garbage_disturbs_nobody_and_nothing_of_a_bad_frame_goes_on() {
    on_core(|| async {
        let ([a, b], mut members) = cluster::<2>();
        // Member 3 is known and does not run.
        let gone = port().1;
        let third = super::peer_tests::members(&[(3, &gone)]);
        members.extend(third);
        a.set_members(&members);
        reachable(&a, 2).await;
        let url = members[&MemberId(1)].peer_urls[0].clone();
        let hello = third_hello().encode().to_vec();
        let mut damaged = third_frame(2, 3);
        damaged[80] ^= 1;
        let talks: [(Vec<u8>, u64); 7] = [
            (vec![0, 1, 2, 3], 0),
            (b"KLFR\0\0\0\0\xff\xff\xff\xff".to_vec(), 0),
            (hello[..40].to_vec(), 0),
            ([&hello[..], b"what"].concat(), 0),
            ([hello.clone(), third_frame(1, 3), damaged].concat(), 1),
            // Not the next one, and not its own.
            ([hello.clone(), third_frame(2, 3)].concat(), 0),
            ([hello.clone(), third_frame(1, 2)].concat(), 0),
        ];
        let mut bad_frame_count = 0;
        for (at, (bytes, good_count)) in talks.into_iter().enumerate() {
            let is_member = bytes.starts_with(&hello);
            say(&url, bytes).await;
            for sequence in 1..=good_count {
                assert_eq!(next_item(&a).await, (3, sequence), "talk {at}");
            }
            bad_frame_count += u64::from(is_member);
            assert_eq!(facts(&a, 3).bad_frame_count, bad_frame_count, "talk {at}");
            assert!(b.send(MemberId(1), SHARD, &item(at as u64, 8)));
            b.flush();
            assert_eq!(next_item(&a).await, (2, at as u64));
        }
        assert_eq!(facts(&b, 1).connect_count, 1);
        a.stop();
        b.stop();
    });
}

/// Welcomes the first that dials and reads nothing more.
fn welcome_and_sleep(listener: &TcpListener) -> TcpStream {
    let (mut stream, _) = listener.accept().unwrap();
    let mut hello = vec![0; third_hello().encode().len()];
    stream.read_exact(&mut hello).unwrap();
    let hello = Hello::decode(Bytes::from(hello)).unwrap();
    let welcome = Welcome {
        cluster: CLUSTER,
        from: hello.to,
        to: hello.from,
        answer: Ok(VERSION_MAX),
        start: 7,
    };
    stream.write_all(&welcome.encode()).unwrap();
    stream
}

#[test]
fn what_waits_for_a_member_that_does_not_read_is_bounded() {
    on_core(|| async {
        const ITEM_BYTES: usize = 100_000;
        let ((own, own_url), (other, other_url)) = (port(), port());
        let bounded = PeerConfig {
            queue_bytes_max: 1 << 20,
            write_stalled_max: Duration::from_millis(500),
            ..config(1)
        };
        let a = Peers::start(bounded, vec![own]).unwrap();
        a.set_members(&members(&[(1, &own_url), (2, &other_url)]));
        let asleep = spawn_blocking(move || (welcome_and_sleep(&other), other)).await;
        let _asleep = asleep.unwrap();
        reachable(&a, 2).await;
        let mut is_full = false;
        for number in 0..400 {
            is_full |= !a.send(MemberId(2), SHARD, &item(number, ITEM_BYTES));
            a.flush();
            yield_now().await;
            assert!(facts(&a, 2).queued_bytes < (1 << 20) + ITEM_BYTES + 200);
        }
        assert!(is_full);
        assert!(facts(&a, 2).dropped_item_count > 100);
        assert_eq!(heard(&a).await, Heard::Unreachable(MemberId(2)));
        // The link is given up; the next one is made, and finds nobody who welcomes.
        until(|| facts(&a, 2).connected_since_ms.is_none()).await;
        assert_eq!(facts(&a, 2).queued_bytes, 0);
        a.stop();
    });
}

#[test]
fn a_member_that_takes_nothing_reads_no_more_and_loses_nothing() {
    on_core(|| async {
        const COUNT: u64 = 300;
        let ((first, first_url), (second, second_url)) = (port(), port());
        let members = members(&[(1, &first_url), (2, &second_url)]);
        let patient = PeerConfig {
            write_stalled_max: Duration::from_secs(30),
            ..config(1)
        };
        let a = Peers::start(patient, vec![first]).unwrap();
        let small = PeerConfig {
            inbox_bytes_max: 200_000,
            ..config(2)
        };
        let b = Peers::start(small, vec![second]).unwrap();
        a.set_members(&members);
        b.set_members(&members);
        reachable(&a, 2).await;
        for number in 0..COUNT {
            assert!(a.send(MemberId(2), SHARD, &item(number, 100_000)));
            a.flush();
        }
        sleep(Duration::from_millis(300)).await;
        // What is read at once, and one frame.
        assert!(facts(&b, 1).received_bytes < 500_000);
        assert!(facts(&a, 2).queued_bytes > 10_000_000);
        for number in 0..COUNT {
            assert_eq!(next_item(&b).await, (1, number));
        }
        a.stop();
        b.stop();
    });
}

#[test]
fn the_peer_port_tells_who_belongs_to_the_cluster() {
    on_core(|| async {
        let ([a, b], mut members) = cluster::<2>();
        let second = members.get_mut(&MemberId(2)).unwrap();
        second.is_learner = true;
        second.name = "two".to_owned();
        a.set_members(&members);
        let urls = vec![
            "http://127.0.0.1:1".to_owned(),
            members[&MemberId(1)].peer_urls[0].clone(),
        ];
        let url = urls[1].clone();
        let found = spawn_blocking(move || fetch_members(&urls, Duration::from_secs(10))).await;
        let found = found.unwrap().unwrap();
        assert_eq!(found.cluster, CLUSTER);
        assert_eq!(found.members, members.values().cloned().collect::<Vec<_>>());
        for (request, wanted) in [
            ("GET /members", "HTTP/1.1 200"),
            ("GET /members", "x-etcd-cluster-id: c1\r\n"),
            ("GET /version", "\"etcdserver\":\""),
            ("GET /", "HTTP/1.1 404"),
            ("POST /members", "HTTP/1.1 405"),
            ("WHAT", "HTTP/1.1 400"),
        ] {
            let bytes = format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
            let answer = say(&url, bytes.into_bytes()).await;
            let answer = String::from_utf8(answer).unwrap();
            assert!(answer.contains(wanted), "{request}: {answer}");
        }
        a.stop();
        b.stop();
    });
}
