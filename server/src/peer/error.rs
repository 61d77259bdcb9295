//! What goes wrong before there is a link.

use std::io;

use crate::config::HttpUrl;

use thiserror::Error;

/// Why other members cannot be reached or asked.
#[derive(Debug, Error)]
pub enum PeerError {
    /// A URL with TLS.
    #[error("peer URL {0:?} asks for TLS, but peer TLS is not built yet; use an http URL")]
    Tls(String),
    /// Something that is no URL of a member.
    #[error("peer URL: {0}")]
    Url(String),
    /// Nobody to ask.
    #[error("there is no peer URL to ask")]
    NoUrl,
    /// The listening sockets cannot be served.
    #[error("a peer port cannot be served: {0}")]
    Listen(#[from] io::Error),
    /// No URL gave a list of members. Each with its reason.
    #[error("no member told who belongs to the cluster: {0}")]
    NoAnswer(String),
}

/// Reads a peer URL.
///
/// # Errors
/// It is none, or asks for TLS.
pub(super) fn peer_url(text: &str) -> Result<HttpUrl, PeerError> {
    if text.trim_start().starts_with("https:") {
        return Err(PeerError::Tls(text.to_owned()));
    }
    HttpUrl::parse(text).map_err(PeerError::Url)
}
