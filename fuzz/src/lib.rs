//! Owns: what the fuzzer feeds, one entry a reader of foreign bytes. The same entries replay the corpus in `tests/corpus.rs`.
//! Must not: need the fuzzer itself, or reach for anything of the program that is not public.
//!
//! An entry takes any bytes and must come back: an error is fine, a panic is a defect, and so is what an assertion here says.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is test code")]

mod archives;
mod disks;
mod documents;
mod journal;
mod replies;
mod states;

pub use archives::{archive, seed};
pub use disks::qcow2;
pub use documents::{config, domain_xml};
pub use journal::{is_accepted, journal};
pub use replies::nbd;
pub use states::state;

use std::path::Path;
use std::sync::OnceLock;

/// An entry.
pub type Entry = fn(&[u8]);

/// Every entry by the name of its target, which is that of its folder in the corpus.
pub const ENTRIES: [(&str, Entry); 8] = [
    ("archive", archive),
    ("config", config),
    ("domain_xml", domain_xml),
    ("journal", journal),
    ("nbd", nbd),
    ("qcow2", qcow2),
    ("seed", seed),
    ("state", state),
];

/// A folder of this process, for what is read from files. It goes with the reboot: the fuzzer never ends in order.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    FOLDER.get_or_init(|| tempfile::Builder::new().prefix("kvmbackup-fuzz").tempdir().unwrap()).path()
}
