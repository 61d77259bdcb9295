//! The URLs of a member: `http://host:port` and nothing more.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// `http://host:port`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HttpUrl {
    host: String,
    port: u16,
}

impl HttpUrl {
    /// A URL from its parts; `host` is an address or a name, without brackets.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self {
            host: host.into(),
            port,
        }
    }

    /// Reads one URL.
    ///
    /// # Errors
    /// A phrase that says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(format!("{text:?} is not of the form http://host:port"));
        };
        match scheme {
            "http" => {}
            "https" => {
                return Err(format!(
                    "{text:?} asks for TLS, which is not available yet; use http"
                ));
            }
            "unix" | "unixs" => {
                return Err(format!(
                    "{text:?} is a unix socket, which is not available yet; use http://host:port"
                ));
            }
            _ => {
                return Err(format!(
                    "{text:?} has an unknown scheme; use http://host:port"
                ));
            }
        }
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#']) {
            return Err(format!("{text:?} must not have a path"));
        }
        if authority.contains('@') {
            return Err(format!("{text:?} must not have a user"));
        }
        let (host, port) = split_authority(authority)
            .ok_or_else(|| format!("{text:?} is not of the form http://host:port"))?;
        let port = port
            .parse()
            .map_err(|_| format!("{text:?} has no valid port; expected a number up to 65535"))?;
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }

    /// Reads a comma-separated list, sorted and without repeats; empty text is an empty list.
    ///
    /// # Errors
    /// A phrase about the first URL that is wrong.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, String> {
        if text.trim().is_empty() {
            return Ok(Vec::new());
        }
        let mut urls = text
            .split(',')
            .map(Self::parse)
            .collect::<Result<Vec<_>, _>>()?;
        urls.sort();
        urls.dedup();
        Ok(urls)
    }

    /// Writes a list as it is read.
    pub fn join(urls: &[Self]) -> String {
        urls.iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(",")
    }

    /// The host, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address to listen on: the host must be an IP address or `localhost`, as in etcd, so
    /// that a name server cannot decide where a member listens.
    ///
    /// # Errors
    /// A phrase that says so.
    pub fn listen_address(&self) -> Result<SocketAddr, String> {
        if self.host == "localhost" {
            return Ok(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), self.port));
        }
        match self.host.parse::<IpAddr>() {
            Ok(address) => Ok(SocketAddr::new(address, self.port)),
            Err(_) => Err(format!(
                "\"{self}\" must name an IP address or localhost to listen on"
            )),
        }
    }
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(out, "http://[{}]:{}", self.host, self.port)
        } else {
            write!(out, "http://{}:{}", self.host, self.port)
        }
    }
}

/// Splits `host:port` or `[v6]:port`.
fn split_authority(authority: &str) -> Option<(&str, &str)> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, port) = rest.split_once("]:")?;
        return Some((host, port));
    }
    let (host, port) = authority.split_once(':')?;
    (!port.contains(':')).then_some((host, port))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_written() {
        for (text, host, port) in [
            ("http://localhost:2379", "localhost", 2379),
            ("http://0.0.0.0:1", "0.0.0.0", 1),
            (" http://a.b:80/ ", "a.b", 80),
            ("http://[::1]:2379", "::1", 2379),
        ] {
            let url = HttpUrl::parse(text).unwrap();
            assert_eq!((url.host(), url.port()), (host, port));
            assert_eq!(url.to_string(), text.trim().trim_end_matches('/'));
        }
    }

    #[test]
    fn wrong_urls_say_what_is_wrong() {
        for (text, part) in [
            ("localhost:2379", "not of the form"),
            ("https://a:1", "TLS, which is not available yet"),
            ("unix://a", "unix socket"),
            ("ftp://a:1", "unknown scheme"),
            ("http://a", "not of the form"),
            ("http://a:b", "no valid port"),
            ("http://a:70000", "no valid port"),
            ("http://a:1/x", "must not have a path"),
            ("http://u@a:1", "must not have a user"),
            ("http://::1:2379", "not of the form"),
            ("http://[::1]2379", "not of the form"),
            ("", "not of the form"),
        ] {
            let error = HttpUrl::parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn lists_are_sorted_without_repeats() {
        let urls = HttpUrl::parse_list("http://b:2,http://a:1, http://b:2").unwrap();
        assert_eq!(HttpUrl::join(&urls), "http://a:1,http://b:2");
        assert_eq!(HttpUrl::parse_list(" "), Ok(Vec::new()));
    }

    #[test]
    fn only_addresses_and_localhost_can_be_listened_on() {
        let address = |text| HttpUrl::parse(text).unwrap().listen_address();
        assert_eq!(
            address("http://localhost:1").unwrap().to_string(),
            "127.0.0.1:1"
        );
        assert_eq!(address("http://[::]:1").unwrap().to_string(), "[::]:1");
        assert!(
            address("http://example.org:1")
                .unwrap_err()
                .contains("IP address or localhost")
        );
        assert!(address("http://:1").is_err());
    }
}
