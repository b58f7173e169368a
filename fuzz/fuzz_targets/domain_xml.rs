//! The libFuzzer target for the entry point `domain_xml`. Must not contain logic.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kvmbackup_fuzz::domain_xml(data));
