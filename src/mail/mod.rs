//! Decides what is mailed after a run and when, and sends it.
//! It must not print, change the ledger, or know how a run works.

mod body;
mod decide;
mod error;
mod message;
mod program;
mod send;
mod smtp;
mod spool;
mod subject;

pub use body::{Background, bodies, check_templates, html};
pub use decide::{Gist, gist, is_due, is_maintenance_due, late};
pub use error::Error;
pub use message::message;
pub use send::{reach, send, untrusted, way};
pub use smtp::Trouble;
pub use spool::Spool;
pub use subject::{subject, test_subject};
