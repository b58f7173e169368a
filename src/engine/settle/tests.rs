//! Tests settling with a small model of a domain and with real images: what is committed, removed and left alone, and
//! what the journal contains at each moment.

use std::path::{Path, PathBuf};
use std::process::Command;

use chrono::Utc;
use tempfile::TempDir;
use uuid::Uuid;

use super::*;
use crate::engine::fake::{self, Fake};
use crate::engine::journal::Journal;
use crate::engine::marks;
use crate::model::{DomainState, Format, Image, Source};
use crate::store::fixture::{run, text};

mod off;
mod running;
mod waits;

/// A file name that a journal entry may name as an overlay.
const OVER: &str = "over.vda.kvmbackup-0123abcd.qcow2";

/// A domain with its disk on an overlay of ours, with or without data of the guest.
struct Bench {
    dir: TempDir,
    fake: Fake,
    record: Record,
    overlay: Overlay,
}

impl Bench {
    fn new(state: DomainState, written: bool) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let [base, path] = ["base.qcow2", OVER].map(|name| dir.path().join(name));
        run("qemu-img", &["create", "-q", "-f", "qcow2", text(&base), "1M"]);
        run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", text(&base), "-F", "qcow2", text(&path)]);
        if written {
            run("qemu-io", &["-f", "qcow2", "-c", "write -P 7 0 64k", text(&path)]);
        }
        let journal = Journal::open(dir.path()).unwrap();
        let mut record = journal.begin(Uuid::new_v4(), Utc::now(), "test:///default", &fake::id()).unwrap();
        let fake = Fake::new(state, "vda", &[&path, &base]);
        let base = Image { source: Source::File(base), format: Format::Qcow2 };
        let marks = marks::found(&path, &base, Some(Vec::new()));
        assert!(marks.is_some());
        let overlay = Overlay { target: "vda".to_owned(), path, base, saved: None, marks };
        record.update(|entry| entry.overlays.push(overlay.clone())).unwrap();
        Bench { dir, fake, record, overlay }
    }

    /// Records the progress of an earlier attempt in the journal.
    fn noted_before(mut self, how_far: Option<Settling>) -> Bench {
        note(&mut self.record, &self.overlay, how_far);
        self
    }

    /// Puts the disk on these images, in the guest and in the definition.
    fn put_on(&self, names: &[&str]) {
        let chain = self.chain(names);
        self.fake.set(|guest| {
            guest.live.insert("vda".to_owned(), chain.clone());
            guest.defined.insert("vda".to_owned(), chain);
        });
    }

    fn chain(&self, names: &[&str]) -> Vec<PathBuf> {
        names.iter().map(|name| self.dir.path().join(name)).collect()
    }

    fn settle(&mut self) -> Result<(), Error> {
        overlay(&self.fake, &mut self.record, &self.overlay)
    }

    /// The message of a refusal, after which the overlay must still exist.
    fn refused(&mut self) -> String {
        let error = self.settle().unwrap_err();
        assert!(self.overlay.path.exists(), "removed despite: {error}");
        error.to_string()
    }

    /// The calls since this was last called, except queries of definitions.
    fn acts(&self) -> Vec<String> {
        let mut calls = self.fake.calls();
        calls.retain(|call| !["domains", "describe", "persistent"].contains(&call.as_str()));
        calls
    }

    fn noted(&self) -> Option<Settling> {
        noted(self.dir.path())
    }

    fn is_in_base(&self) -> bool {
        let base = self.overlay.base.source.path().unwrap();
        let read = Command::new("qemu-io").args(["-f", "qcow2", "-r", "-c", "read -P 7 0 64k"]).arg(base).output();
        read.unwrap().status.success()
    }

    fn defined(&self) -> Vec<PathBuf> {
        self.fake.get(|guest| guest.defined["vda"].clone())
    }
}

/// The progress in the journal on disk.
fn noted(dir: &Path) -> Option<Settling> {
    let left = Journal::open(dir).unwrap().left().unwrap();
    left[0].as_ref().unwrap().entry().settling.get("vda").copied()
}

#[test]
fn overlay_of_a_missing_domain_stays_only_if_it_has_the_only_copy() {
    use Settling::*;
    for (written, there, before, goes) in [
        (true, true, Some(Committed), true),
        (false, true, None, true),
        (false, false, None, true),
        (true, true, None, false),
        // The move may not have happened.
        (true, true, Some(Committing), false),
    ] {
        let mut bench = Bench::new(DomainState::Off, written).noted_before(before);
        bench.fake.set(|guest| guest.known = false);
        if !there {
            std::fs::remove_file(&bench.overlay.path).unwrap();
        }
        if goes {
            bench.settle().unwrap();
            assert!(!bench.overlay.path.exists(), "{before:?}");
        } else {
            assert!(bench.refused().contains("the domain no longer exists, but the overlay"));
        }
    }
}

#[test]
fn domain_that_cannot_be_described_is_not_considered_missing() {
    let mut bench = Bench::new(DomainState::Running, false);
    bench.fake.when(|call, _, _| (call == "describe").then_some(Kind::Other));
    bench.refused();
    assert!(bench.fake.calls().iter().all(|call| ["domains", "describe"].contains(&call.as_str())));
}

#[test]
fn disk_with_a_new_target_is_found() {
    for state in [DomainState::Running, DomainState::Off] {
        let mut bench = Bench::new(state, true);
        bench.fake.set(|guest| {
            for chains in [&mut guest.live, &mut guest.defined] {
                let chain = chains.remove("vda").unwrap();
                chains.insert("vdb".to_owned(), chain);
            }
        });
        bench.settle().unwrap();
        assert!(!bench.overlay.path.exists());
        assert_eq!(bench.fake.get(|guest| guest.defined["vdb"].clone()), bench.chain(&["base.qcow2"]));
    }
}
