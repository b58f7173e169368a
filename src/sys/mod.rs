//! Services of the operating system: files, locks, processes, signals, space. Must not know backups.

pub mod at_once;
pub mod buffer;
pub mod bulk;
pub mod durable;
pub mod host;
pub mod in_use;
pub mod lock;
pub mod mark;
pub mod mounts;
pub mod opened;
pub mod output;
pub mod owner;
pub mod patience;
pub mod patient_file;
pub mod process;
pub mod program;
pub mod secret;
pub mod shebang;
pub mod signals;
pub mod socket;
pub mod space;
pub mod step;
pub mod trust;
mod writeback;
