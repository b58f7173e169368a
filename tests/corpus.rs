//! Checks that no parser of foreign bytes panics or uses too much memory on the initial corpus and on the findings of
//! the fuzzer.
//!
//! The entry points are the fuzzer's own (`fuzz/src`); the corpus is `fuzz/corpus/ENTRY`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, reason = "this is test code")]

use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

#[path = "../fuzz/src/lib.rs"]
mod fuzz;

/// The most memory that an entry may need; the fuzzer has the same limit.
const MEMORY: u64 = 1 << 30;

/// Whether any thread has panicked. Decoder threads do not report their panics.
static PANICKED: AtomicBool = AtomicBool::new(false);

/// From now on, [`PANICKED`] records panics.
fn watch_panics() {
    static WATCHED: Once = Once::new();
    WATCHED.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANICKED.store(true, Ordering::SeqCst);
            usual(info);
        }));
    });
}

/// The files of the corpus for an entry point, in order.
fn corpus(name: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "the corpus has no entry for {name}");
    files
}

#[test]
fn no_parser_panics_or_exhausts_memory_on_the_corpus() {
    watch_panics();
    for (name, entry) in fuzz::ENTRIES {
        for file in corpus(name) {
            eprintln!("{}", file.display());
            entry(&std::fs::read(&file).unwrap());
            assert!(!PANICKED.load(Ordering::SeqCst), "a thread panicked at {}", file.display());
        }
    }
    assert!(most_memory() < MEMORY, "peak memory: {} bytes", most_memory());
}

/// Changes bytes of a file of the corpus: flips, removes, repeats and overwrites some.
fn mutated(bytes: &[u8], seed: &mut u64) -> Vec<u8> {
    let mut below = |limit: usize| {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        (*seed % limit.max(1) as u64) as usize
    };
    let mut bytes = bytes.to_vec();
    for _ in 0..=below(4) {
        // The first byte selects the parser.
        let at = 1 + below(bytes.len().saturating_sub(1));
        let end = (at + 1 + below(40)).min(bytes.len()).max(at.min(bytes.len()));
        let at = at.min(end);
        match below(5) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..end)),
            2 => bytes.splice(at..at, bytes[at..end].to_vec()).for_each(drop),
            3 => bytes.splice(at..end, b"18446744073709551615".to_vec()).for_each(drop),
            _ => bytes[at..end].iter_mut().for_each(|byte| *byte ^= 1 << below(8)),
        }
    }
    bytes
}

/// Calls the entry point for repositories with changed files of its corpus.
fn mutate(rounds: u64) {
    watch_panics();
    for round in 0..rounds {
        for (number, file) in (1..).zip(corpus("repository")) {
            let bytes = std::fs::read(&file).unwrap();
            let mut seed = (round + 1) * 1_000_003 + number;
            fuzz::repository(&mutated(&bytes, &mut seed));
            assert!(!PANICKED.load(Ordering::SeqCst), "a thread panicked in round {round} of {}", file.display());
        }
    }
    assert!(most_memory() < MEMORY, "peak memory: {} bytes", most_memory());
}

#[test]
fn no_change_of_a_forged_repository_causes_a_panic_or_exhausts_memory() {
    mutate(2);
}

#[test]
#[ignore = "soak: 100,000 changes of forged repositories"]
fn a_hundred_thousand_changes_of_forged_repositories_cause_no_panic() {
    mutate(100_000 / corpus("repository").len() as u64);
}

#[test]
fn only_journal_entries_that_a_backup_could_write_are_accepted() {
    for file in corpus("journal") {
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
