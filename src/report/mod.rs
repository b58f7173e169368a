//! Owns: a [`RunReport`](crate::model::RunReport) as people and programs read it: text and JSON. Pure.
//! Must not: print, send, or read the clock.

mod json;
pub mod table;
mod text;

#[cfg(test)]
pub(crate) use text::sample;

pub use json::json;
pub use text::{WIDTH, journal, moment, text};
