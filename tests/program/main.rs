//! Tests of the program without a running guest: its commands, files, mails, pages, packages and documents.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is test code")]

#[path = "../browser/mod.rs"]
mod browser;
#[path = "../bucket/mod.rs"]
mod bucket;
#[path = "../faulty/mod.rs"]
mod faulty;
#[path = "../../fuzz/src/forge.rs"]
mod forge;
#[path = "../host/mod.rs"]
mod host;
#[path = "../mailbox/mod.rs"]
mod mailbox;
#[path = "../promql/mod.rs"]
mod promql;
#[path = "../serving/mod.rs"]
mod serving;
#[path = "../steps/mod.rs"]
mod steps;
#[path = "../units/mod.rs"]
mod units;
#[path = "../watched/mod.rs"]
mod watched;

mod alerts;
mod carriage_returns;
mod cli_check;
mod cli_exit;
mod cli_hooks;
mod cli_json;
mod cli_ledger;
mod cli_metrics;
mod cli_plan;
mod cli_report;
mod cli_retention;
mod cli_seed;
mod cli_verify;
mod crash_off;
mod damage;
mod damaged_points;
mod dashboard;
mod dependencies;
mod docs;
mod docs_config;
mod exporter;
mod exporter_hosts;
mod exporter_runs;
mod fault_clock;
mod fault_off;
mod foreign_files;
mod forged;
mod formats;
mod hostile;
mod hostile_salvage;
mod layers;
mod mail;
mod mail_causes;
mod mail_systems;
mod mail_ways;
mod mail_when;
mod output;
mod packages;
mod page_cache;
mod pictures;
mod protect;
mod reliability;
mod repository;
mod repository_s3;
mod restore_points;
mod runbooks;
mod secrets;
mod security;
mod status_page;
mod target_files;
mod texts;
mod transfer;
mod trust;
mod two_stores;
mod typed_commands;
