//! Reading disks over NBD: our own client, and the `qemu-nbd` process that serves an image.
//!
//! Owns: the NBD protocol as a reader needs it, and the life of `qemu-nbd`. Must not: know domains, snapshots or archives.
//!
//! The protocol: `doc/proto.md` of <https://github.com/NetworkBlockDevice/nbd>. Names here are its names.

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
