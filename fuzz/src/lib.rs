//! Entry points for the fuzzer, one per parser of foreign data. `tests/corpus.rs` replays the corpus with the same entry
//! points. Must not depend on the fuzzer or on private parts of the program.
//!
//! An entry point accepts any bytes and must return. Errors are fine; panics and failed assertions are defects.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is test code")]

mod archives;
mod disks;
mod documents;
mod forge;
mod journal;
mod replies;
mod repositories;
mod states;

pub use archives::{archive, seed};
pub use disks::qcow2;
pub use documents::{config, domain_xml};
pub use journal::{is_accepted, journal};
pub use replies::nbd;
pub use repositories::repository;
pub use states::state;

use std::path::Path;
use std::sync::OnceLock;

/// An entry point.
pub type Entry = fn(&[u8]);

/// Every entry point by the name of its fuzz target, which is also its directory in the corpus.
pub const ENTRIES: [(&str, Entry); 9] = [
    ("archive", archive),
    ("config", config),
    ("domain_xml", domain_xml),
    ("journal", journal),
    ("nbd", nbd),
    ("qcow2", qcow2),
    ("repository", repository),
    ("seed", seed),
    ("state", state),
];

/// A temporary directory for parsers that read files. It stays until the reboot, because the fuzzer never exits normally.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    FOLDER.get_or_init(|| tempfile::Builder::new().prefix("kvmbackup-fuzz").tempdir().unwrap()).path()
}
