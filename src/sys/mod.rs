//! Owns: what the operating system does for us: durable files, locks, signals, space. Must not: know of backups.

pub mod buffer;
pub mod bulk;
pub mod durable;
pub mod host;
pub mod lock;
pub mod patience;
pub mod signals;
pub mod space;
mod writeback;
