//! Checks after a round, regardless of the operator's actions.

use std::path::PathBuf;

use super::disks::{Brief, Instant, Slots, slots_of};
use super::hints;
use super::world::{World, elements, frame, ours_in, wait_for_servers};
use crate::lab::{Ran, Unpacked, run};

/// More rounds of hints than any chain of causes needs.
const ROUNDS: usize = 6;

impl World {
    /// Panics unless every archive that this backup listed is of one instant since `from`, and names every disk that it
    /// lacks.
    pub fn assert_archives(&mut self, from: usize, report: Option<&Ran>) {
        for archive in self.archives() {
            if !self.seen.insert(archive.clone()) {
                continue;
            }
            let unpacked = Unpacked::from(&archive);
            let mut saved = Instant::new();
            for member in unpacked.members() {
                if let Some(target) = member.strip_prefix("disks/").and_then(|name| name.strip_suffix(".qcow2")) {
                    let copy = self.lab.path("copy");
                    saved.insert(target.to_owned(), slots_of(&unpacked.path(&member), "qcow2", &copy));
                }
            }
            let mut words = unpacked.manifest().to_string();
            words.extend(report.map(|report| report.stdout.clone()));
            self.note(format!("archive: {:?}", Brief(&saved)));
            self.disks.assert_one_instant(from, &saved, |target| words.contains(target));
        }
    }

    fn archives(&self) -> Vec<PathBuf> {
        let folder = self.program.backups();
        if !folder.exists() {
            return vec![];
        }
        run("find", &[folder.to_str().unwrap(), "-name", "*.tar*", "-not", "-name", "*.part"])
            .lines()
            .map(PathBuf::from)
            .collect()
    }

    /// Runs recovery and follows its hints until nothing is left.
    pub fn tidy(&mut self) {
        if self.undefined.is_some() && self.random.once_in(2) {
            self.define().expect("the definition is accepted");
            self.look();
        }
        for _ in 0..ROUNDS {
            let ran = self.program.run(&["recover"]);
            self.note(format!("recover: {} {}", ran.code, ran.stdout.trim()));
            self.told.push_str(&ran.stdout);
            if ran.code == 0 && self.undefined.is_none() {
                return;
            }
            // The operator does this sooner or later.
            self.free().unwrap();
            if self.undefined.is_some() {
                let defined = self.define();
                self.note(format!("define: {defined:?}"));
                defined.expect("the definition is accepted");
                self.look();
                continue;
            }
            assert_eq!(ran.code, 7, "{ran:#?}");
            for hint in ran.stdout.lines().filter_map(|line| line.trim().strip_prefix("hint: ")) {
                let spare = self.image(&format!("new-{}", self.told.len()));
                let hint = hint.replace("NEWFILE", spare.to_str().unwrap());
                if hint.contains("virsh edit") {
                    let edited = self.edit();
                    self.note(format!("{hint}: {edited:?}"));
                }
                for command in hints::right_commands(&hint, |overlay| self.is_committed(overlay)) {
                    let output = self.where_it_is(|| hints::run(&command));
                    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                    self.note(format!("hint: {command}: {} {said}", output.status));
                }
            }
            self.look();
            if ran.stdout.contains("NEWFILE") {
                self.take_elements();
            }
        }
        panic!("following the hints leaves entries");
    }

    /// Panics unless the guest is in the state that the operator left it in, and nothing of kvmbackup is left.
    pub fn assert_tidy(&mut self) {
        wait_for_servers(&self.lab);
        assert_eq!(ours_in(&self.lab.path("images")), [""; 0], "files were left beside the images");
        self.restore_saved().expect("the saved guest resumes");
        let journal = self.program.state().join("journal");
        assert_eq!(run("find", &[journal.to_str().unwrap(), "-type", "f"]), "", "the journal");
        let xml = self.guest_xml();
        assert_eq!(elements(&xml), self.elements, "the disks of the definition");
        assert_eq!(frame(&xml), self.frame, "the definition");
        if self.disks.active {
            let live = self.virsh(&["dumpxml"]).expect("the guest is running");
            assert!(!live.contains("kvmbackup") && !live.contains("<mirror"), "{live}");
            let job = self.virsh(&["domjobinfo"]).expect("the guest is running");
            assert!(job.contains("None"), "a job is still running: {job}");
        }
        self.assert_contents();
        self.assert_frozen();
    }

    /// Whether the operator has committed this overlay.
    fn is_committed(&self, overlay: &str) -> bool {
        self.committed.iter().any(|target| overlay.contains(&format!(".{target}.kvmbackup-")))
    }

    /// Panics unless the disks of the guest contain what it wrote.
    pub fn assert_contents(&self) {
        let now = self.disks.now();
        for (target, slots) in &now {
            let held = self.slots(target);
            let held = Instant::from([(target.clone(), held)]);
            assert_eq!(held[target], *slots, "{target} contains {:?} instead of {:?}", Brief(&held), Brief(&now));
        }
    }

    /// Contents of a disk of the guest.
    pub fn slots(&self, target: &str) -> Slots {
        slots_of(&self.source(target), "qcow2", &self.lab.path("copy"))
    }

    /// The file that a disk of the guest uses now.
    pub fn source(&self, target: &str) -> PathBuf {
        let disks = elements(&self.virsh(&["dumpxml"]).expect("the domain exists"));
        let (_, source) = disks[target].split_once("<source file='").expect("a disk has a file");
        source.split('\'').next().unwrap_or_default().into()
    }
}
