//! Owns: what the operating system does for us: durable files, processes, signals, space. Must not: know of backups.

pub mod durable;
pub mod space;
