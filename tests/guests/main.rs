//! Tests of backups, restores and recovery with real guests, in the lab.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is test code")]

#[path = "../faulty/mod.rs"]
mod faulty;
#[path = "../host/mod.rs"]
mod host;
#[path = "../lab/mod.rs"]
mod lab;
#[path = "../steps/mod.rs"]
mod steps;
#[path = "../units/mod.rs"]
mod units;

mod cli_private;
mod crash;
mod exact_choice;
mod exact_codecs;
mod exact_instant;
mod exact_kinds;
mod exact_off;
mod exact_ready;
mod exact_room;
mod exact_sources;
mod fault_guest;
mod fault_steps;
mod hook_scripts;
mod hook_scripts_database_guest;
mod hook_scripts_guest;
mod hook_scripts_mariadb;
mod hook_scripts_ping;
mod hook_scripts_postgresql;
mod hook_scripts_redis;
mod incremental;
mod interrupted;
mod interrupted_disks;
mod interrupted_watched;
mod lab_smoke;
mod live_database;
mod live_freeze;
mod live_guest_hooks;
mod live_hooks;
mod live_killed;
mod live_metrics;
mod live_stop;
mod live_unit;
mod live_writer;
mod power_cut;
mod real_days;
mod repository;
mod restore_domain;
mod restore_refused;
mod seed_archives;
mod target;
mod watched_by_prometheus;
