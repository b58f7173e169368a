//! The libFuzzer target for the entry point `nbd`. Must not contain logic.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kvmbackup_fuzz::nbd(data));
