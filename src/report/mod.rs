//! Owns: a [`RunReport`](crate::model::RunReport) as people and programs read it: text, JSON, exit code. Pure.
//! Must not: print, send, or ask the time.

mod exit;
mod json;
pub mod table;
mod text;

#[cfg(test)]
pub(crate) use text::sample;

pub use exit::{EXIT_STATUS, ExitCode, exit_code, failure, untold};
pub use json::json;
pub use text::{WIDTH, journal, moment, text};
