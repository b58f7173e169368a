//! What Prometheus is told.
//!
//! Owns: the catalogue of metrics, and how a ledger and a survey become one text of the exposition format, and a file.
//! Must not: look at libvirt or the target, or remember anything: each text is made afresh.

pub mod catalogue;
mod error;
mod page;
mod publish;
mod text;
pub mod textfile;

pub use error::Error;
pub use publish::{current, publish};
pub use text::{exporter_text, text};
