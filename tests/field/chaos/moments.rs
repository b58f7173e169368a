//! A backup that pauses at some of its steps, while the operator acts.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use super::world::World;
use crate::lab::{Ran, wait_until};

/// Time limit of a backup that waits for other clients of libvirt.
const BACKUP_DEADLINE: Duration = Duration::from_secs(900);
/// The maximum number of moments in one backup.
const MOMENTS: usize = 3;

const SNAPSHOT: &[&str] = &[
    "JournalBegin",
    "JournalUpdate",
    "SocketsCreate",
    "OverlayCreate",
    "Freeze",
    "Snapshot",
    "SnapshotTaken",
    "Thaw",
    "PartialCreate",
    "ServerStart",
    "DiskRead",
    "DiskRead#2",
    "ServerEnd",
    "CommitBegin",
    "CommitBegun",
    "Pivot",
    "Pivoted",
    "CommitBegin#2",
    "Pivot#2",
    "DefinitionWrite",
    "OverlayRemove",
    "ArchiveEnd",
    "ArchiveRename",
];
const PULL: &[&str] = &[
    "JournalBegin",
    "JournalUpdate",
    "SocketsCreate",
    "ScratchCreate",
    "Freeze",
    "PullBegin",
    "PullBegun",
    "Thaw",
    "PartialCreate",
    "DiskRead",
    "DiskRead#2",
    "PullEnd",
    "PullEnded",
    "ScratchRemove",
    "ArchiveEnd",
    "ArchiveRename",
];
const DIRECT: &[&str] = &[
    "JournalBegin",
    "JournalUpdate",
    "SocketsCreate",
    "PartialCreate",
    "ServerStart",
    "DiskRead",
    "ServerEnd",
    "DiskRead#2",
    "ArchiveEnd",
    "ArchiveRename",
];

/// A backup in progress.
pub struct Backup {
    run: Child,
    /// The steps at which it will pause, and the files that it creates there.
    moments: Vec<(String, PathBuf)>,
}

impl World {
    /// Starts a backup that pauses at some steps, if it reaches them.
    pub fn backup(&mut self) -> Backup {
        let steps = match (self.disks.active, self.method) {
            (false, _) => DIRECT,
            (true, "pull") => PULL,
            (true, _) => SNAPSHOT,
        };
        let mut moments: Vec<(String, PathBuf)> = Vec::new();
        for number in 0..=self.random.below(MOMENTS) {
            let step = self.random.pick(steps);
            if moments.iter().all(|(other, _)| other != step) {
                moments.push((step.to_owned(), self.lab.path(&format!("held-{number}"))));
            }
        }
        let faults: Vec<_> = moments.iter().map(|(step, mark)| format!("{step}:hold={}", mark.display())).collect();
        let mut command = self.program.command();
        command.args(["backup", "--json"]).stdout(Stdio::piped()).stderr(Stdio::piped());
        let run = command.env("KVMBACKUP_FAULT", faults.join(";")).spawn().unwrap();
        let steps: Vec<_> = moments.iter().map(|(step, _)| step.as_str()).collect();
        self.note(format!("backup by {}, to be held at {}", self.method, steps.join(", ")));
        Backup { run, moments }
    }
}

impl Backup {
    /// Waits until it pauses at one of its steps and returns it. None: the backup has ended.
    pub fn next(&mut self) -> Option<Moment> {
        let mut reached = None;
        wait_until(BACKUP_DEADLINE, "the backup to reach a step, or to end", || {
            reached = self.moments.iter().position(|(_, mark)| mark.exists());
            reached.is_some() || self.run.try_wait().unwrap().is_some()
        });
        reached.map(|at| self.moments.remove(at)).map(|(step, mark)| Moment { step, mark })
    }

    /// Its result, after its end.
    pub fn ended(self) -> Ran {
        Ran::from(self.run.wait_with_output().unwrap())
    }

    pub fn kill(mut self) {
        self.run.kill().unwrap();
        self.run.wait().unwrap();
    }
}

/// The backup is paused.
pub struct Moment {
    pub step: String,
    mark: PathBuf,
}

impl Moment {
    /// Resumes it.
    pub fn go_on(self) {
        fs::remove_file(&self.mark).unwrap();
    }
}
