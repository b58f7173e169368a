//! Decides which domains are due and how each is captured, with reasons. Pure: no I/O, and the date is an argument.
//! Must not act on the decisions.

mod capture;
mod day;
mod who;

pub use capture::{CapturePlan, PlannedDisk, ReadFrom, Refusal, capture};
pub use who::{Decision, KnownDomain, Plan, Selection, plan};
