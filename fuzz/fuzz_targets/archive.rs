//! Owns: the loop around the entry `archive`. Must not: know what it does.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kvmbackup_fuzz::archive(data));
