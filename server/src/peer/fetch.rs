//! Asks running members who belongs to their cluster. Blocking: boot does it, before there are cores.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use keelson_storage::ids::ClusterId;
use keelson_storage::state::Member;

use super::error::{PeerError, peer_url};
use super::http::{CLUSTER_HEADER, read_members};
use super::limits::FETCHED_BYTES_MAX;
use crate::config::HttpUrl;

/// What a member says about its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its id.
    pub cluster: ClusterId,
    /// Who belongs to it.
    pub members: Vec<Member>,
}

/// Asks one peer URL after the other, each for at most `limit`, until one tells. Members of etcd tell as well.
///
/// # Errors
/// None does, and why.
pub fn fetch_members(urls: &[String], limit: Duration) -> Result<Found, PeerError> {
    let urls: Vec<HttpUrl> = urls
        .iter()
        .map(|url| peer_url(url))
        .collect::<Result<_, _>>()?;
    if urls.is_empty() {
        return Err(PeerError::NoUrl);
    }
    let mut reasons = Vec::with_capacity(urls.len());
    for url in &urls {
        match ask(url, limit) {
            Ok(found) => return Ok(found),
            Err(error) => reasons.push(format!("{url}: {error}")),
        }
    }
    Err(PeerError::NoAnswer(reasons.join("; ")))
}

fn ask(url: &HttpUrl, limit: Duration) -> io::Result<Found> {
    let deadline = Instant::now() + limit;
    let mut stream = connect(url, deadline)?;
    // In this version of HTTP the end of the answer is the end of the connection.
    let authority = url.to_string();
    let authority = authority.trim_start_matches("http://");
    let request = format!("GET /members HTTP/1.0\r\nHost: {authority}\r\n\r\n");
    stream.set_write_timeout(Some(left(deadline)?))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    loop {
        stream.set_read_timeout(Some(left(deadline)?))?;
        let count = stream.read(&mut part).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
            _ => error,
        })?;
        if count == 0 {
            return read_answer(&answer).map_err(io::Error::other);
        }
        answer.extend_from_slice(&part[..count]);
        if answer.len() as u64 > FETCHED_BYTES_MAX {
            return Err(io::Error::other("the answer is too long"));
        }
    }
}

fn connect(url: &HttpUrl, deadline: Instant) -> io::Result<TcpStream> {
    let mut last = io::Error::other("the host has no address");
    for address in (url.host(), url.port()).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, left(deadline)?) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(left)
}

/// Reads a whole answer.
fn read_answer(answer: &[u8]) -> Result<Found, &'static str> {
    const END: &[u8] = b"\r\n\r\n";
    let end = answer
        .windows(END.len())
        .position(|bytes| bytes == END)
        .ok_or("what answers speaks no HTTP")?;
    let head = std::str::from_utf8(&answer[..end]).map_err(|_| "what answers speaks no HTTP")?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1));
    if status != Some("200") {
        return Err("it does not tell its members");
    }
    let cluster = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case(CLUSTER_HEADER))
        .and_then(|(_, value)| u64::from_str_radix(value.trim(), 16).ok())
        .ok_or("it does not tell its cluster's id")?;
    let members = read_members(&answer[end + END.len()..]).ok_or("its list of members is none")?;
    Ok(Found {
        cluster: ClusterId(cluster),
        members,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_and_others_refused() {
        let good = "HTTP/1.0 200 OK\r\nX-Etcd-Cluster-Id: cdf818194e3a8c32\r\n\r\n[{\"id\":7}]\n";
        let found = read_answer(good.as_bytes()).expect("it is an answer");
        assert_eq!(found.cluster, ClusterId(0xcdf8_1819_4e3a_8c32));
        assert_eq!(found.members[0].id, 7);
        for (from, to) in [
            ("200", "404"),
            ("Cluster", "Custer"),
            ("cdf8", "xyz"),
            ("[", "{"),
            ("\r\n\r\n", "\r\n"),
        ] {
            let wrong = good.replace(from, to);
            assert!(read_answer(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn tls_is_refused_and_silence_has_a_reason() {
        let limit = Duration::from_millis(200);
        let fetch = |url: &str| fetch_members(&[url.to_owned()], limit).map_err(|e| e.to_string());
        let error = fetch("https://a:1").expect_err("it asks for TLS");
        assert!(error.contains("peer TLS is not built yet"), "{error}");
        let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let url = format!("http://{}", silent.local_addr().expect("it is bound"));
        let error = fetch(&url).expect_err("nobody answers");
        assert!(error.contains("timed out"), "{error}");
        assert!(matches!(fetch_members(&[], limit), Err(PeerError::NoUrl)));
    }
}
