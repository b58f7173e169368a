//! kvmbackup: unattended backups of libvirt guests.

pub mod app;
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
pub mod plan;
pub mod qcow2;
pub mod report;
pub mod retention;
pub mod store;
pub mod sys;
