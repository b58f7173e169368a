//! Faults reported by operators: what a restore may write, and how the restored guest starts.

mod definition;
mod foreign;
mod host_access;
mod in_use;
mod owners;
mod replaced;
