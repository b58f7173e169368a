//! Metrics for Prometheus: the catalogue, and the text and file made from a ledger and a survey. Must not query libvirt
//! or the target, or keep values: each text is built from scratch.

pub mod catalogue;
mod error;
mod page;
mod publish;
mod text;
pub mod textfile;

pub use error::Error;
pub use publish::{current, publish};
pub use text::{exporter_text, text};
