//! Does the work of all commands: runs, backups of domains, recovery, restore, verify, prune, checks and the survey.
//! Must not print, read configuration files, or name a concrete hypervisor.
//!
//! The order of steps makes a backup safe:
//! - Every resource (a freeze, an overlay, a backup job, a partial file) is recorded in the journal and synced before
//!   it exists, and leaves the journal only after it is gone.
//! - A guest is thawed before anything else is done with it, and is back on its base before its archive is published.
//! - An overlay is unlinked only after the live and the inactive definition both name the base.
//! - Older restore points are removed only after the new one is published and synced.

mod adopt;
pub mod backup;
mod capture;
mod chain;
pub mod check;
pub mod checkpoints;
mod context;
pub mod copies;
mod error;
#[cfg(test)]
mod fake;
mod give_back;
pub mod journal;
pub mod keys;
pub mod maintain;
mod marks;
mod monitor;
mod overlay_file;
mod phases;
pub mod points;
pub mod prune;
mod qemu_img;
mod quiesce;
mod ready;
pub mod recover;
pub mod repair;
mod restic;
pub mod restore;
mod rights;
pub mod run;
mod settle;
mod shrunk;
mod stamps;
pub mod survey;
pub mod target;
mod tracking;
pub mod transfer;
mod users;
pub mod verified;
pub mod verify;

pub use error::{Error, chain};
pub use monitor::{Monitor, Silent};
pub use phases::{RunHooks, Tested, test as test_hooks};
