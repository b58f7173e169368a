//! Metrics for Prometheus and a status page over HTTP.
//!
//! This is a small server for GET and HEAD. `server` serves a client (peer) with `hyper`, `crowd` decides which peers to close,
//! `hosts` checks host names, `site` maps paths to responses, `response` sets headers, `ours` lets a run recognise its own exporter, and
//! `page` renders the status page. It must not query libvirt or the target, change any state, or let a response depend on the peer.
//!
//! One thread serves all peers and never blocks. Two others read the state directory. Whatever peers do:
//! - Connections, the bytes kept for each, and the duration of each are limited.
//! - At a limit, the oldest peers lose their connection. New ones are still answered.
//! - No error of a peer, and no lack of file descriptors, ends the thread or makes it spin.

mod crowd;
mod error;
mod hosts;
mod listener;
mod ours;
pub mod page;
mod response;
mod server;
mod site;

pub use error::Error;
pub use listener::Listener;
pub use ours::is_ours;
pub use server::{Server, Stop};
pub use site::Site;
