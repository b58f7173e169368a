//! Checks that no parser of foreign bytes panics or uses too much memory on the initial corpus and on the findings of
//! the fuzzer.
//!
//! The entry points are the fuzzer's own (`fuzz/src`); the corpus is `fuzz/corpus/ENTRY`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, reason = "this is test code")]

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

#[path = "../fuzz/src/lib.rs"]
mod fuzz;

/// The most memory that an entry may need; the fuzzer has the same limit.
const MEMORY: u64 = 1 << 30;

/// Whether any thread has panicked. Decoder threads do not report their panics.
static PANICKED: AtomicBool = AtomicBool::new(false);

#[test]
fn no_parser_panics_or_exhausts_memory_on_the_corpus() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        PANICKED.store(true, Ordering::SeqCst);
        usual(info);
    }));
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, entry) in fuzz::ENTRIES {
        let mut files: Vec<_> =
            std::fs::read_dir(corpus.join(name)).unwrap().map(|file| file.unwrap().path()).collect();
        files.sort();
        assert!(!files.is_empty(), "the corpus has no entry for {name}");
        for file in files {
            eprintln!("{}", file.display());
            entry(&std::fs::read(&file).unwrap());
            assert!(!PANICKED.load(Ordering::SeqCst), "a thread panicked at {}", file.display());
        }
    }
    assert!(most_memory() < MEMORY, "peak memory: {} bytes", most_memory());
}

#[test]
fn only_journal_entries_that_a_backup_could_write_are_accepted() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/journal");
    for file in std::fs::read_dir(corpus).unwrap().map(|file| file.unwrap().path()) {
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        let is_good = name.starts_with("good");
        assert_eq!(fuzz::is_accepted(&std::fs::read(&file).unwrap()), is_good, "{name}");
    }
}

/// Peak memory of this process in bytes: proc(5), `VmHWM`.
fn most_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}
