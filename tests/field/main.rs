//! Faults that operators of this and of other backup tools have reported, reproduced on real guests.
//!
//! One module per part of the product: `guest` (capture and the way back), `contents` (what is saved), `restore`,
//! `store` (the target and retention), `host` (how the host is set up).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is test code")]

#[path = "../lab/mod.rs"]
mod lab;
#[path = "../steps/mod.rs"]
mod steps;

#[path = "../faulty/mod.rs"]
mod faulty;

mod chaos;
mod contents;
mod guest;
mod guest_back;
mod hints;
mod host;
mod refusing;
mod restore;
mod store;
