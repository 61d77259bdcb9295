//! The Keelson server process.

pub mod cli;
pub mod config;
/// Where clients are served.
pub mod front {
    pub mod http;
}
pub mod observe;
