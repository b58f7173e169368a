//! The libFuzzer target for the entry point `repository`. Must not contain logic.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kvmbackup_fuzz::repository(data));
