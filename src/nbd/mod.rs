//! Reads disks over NBD with its own client, and runs the `qemu-nbd` processes that serve images.
//! Must not know domains, snapshots or archives.
//!
//! Names are those of the protocol: `doc/proto.md` in <https://github.com/NetworkBlockDevice/nbd>.

mod client;
mod error;
mod extents;
mod handshake;
mod image;
mod read;
mod reply;
mod server;
#[cfg(test)]
mod tests;
mod wire;

pub use client::Client;
pub use error::Error;
pub use image::options as image_options;
pub use server::{Options, Server};
