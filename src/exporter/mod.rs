//! What those who watch can ask for over HTTP: metrics for Prometheus, a status page for people.
//!
//! Owns: a small server that answers GET and HEAD, and the status page. `server` serves a peer by `hyper`, `crowd` decides
//! which peers may stay, `hosts` which hosts a request may name, `site` what lies at which path, `response` its headers, `ours` how a run knows its
//! own exporter, `page` how the status page looks.
//! Must not: look at libvirt or the target, change any state, or answer anything that depends on who asks.
//!
//! One thread serves all peers and never blocks; two others read the state directory. What must hold, whatever peers do:
//! - There is a bound to connections, to the bytes kept of each, and to how long each may take.
//! - A bound that is reached costs the oldest peers their connection, never a new one its answer.
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
