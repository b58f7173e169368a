//! The libFuzzer target for the entry point `state`. Must not contain logic.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kvmbackup_fuzz::state(data));
