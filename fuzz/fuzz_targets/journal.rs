//! Owns: the loop around the entry `journal`. Must not: know what it does.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kvmbackup_fuzz::journal(data));
