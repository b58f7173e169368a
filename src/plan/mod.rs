//! Owns: what a run would do and why: which domains are due, and how each is captured. Pure: no I/O, today is an argument.
//! Must not: act.

mod capture;
mod day;
mod who;

pub use capture::{CapturePlan, PlannedDisk, ReadFrom, Refusal, capture};
pub use who::{Decision, KnownDomain, Plan, Selection, plan};
