//! kvmbackup: unattended backups of libvirt guests.
//!
//! A module is public only if the binary, a test or a fuzz target needs it. The compiler finds dead code in the others.

mod app;
pub mod archive;
pub mod cli;
pub mod config;
pub mod engine;
pub mod exporter;
pub mod hooks;
pub mod hypervisor;
pub mod ledger;
pub mod mail;
pub mod metrics;
pub mod model;
pub mod nbd;
mod plan;
pub mod qcow2;
pub mod report;
pub mod repository;
mod retention;
pub mod store;
pub mod sys;
