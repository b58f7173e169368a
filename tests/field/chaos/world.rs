//! A guest, its backup, and what the operator has made of it so far.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::json;

use super::disks::{Disks, SLOT, SLOTS};
use super::random::Random;
use super::snapshots::Taken;
use crate::lab::{DEADLINE, Disk, Guest, Host, Lab, Program, Ran, qemu_img, run, try_virsh, wait_until};

/// How long a backup may take that waits for other clients of libvirt.
const BACKUP_DEADLINE: Duration = Duration::from_secs(900);

/// Disks that the guest begins with; the second can be unplugged.
pub const FIRST: [&str; 2] = ["vda", "sda"];
/// Disks that can be plugged in.
pub const SPARE: [&str; 2] = ["sdb", "sdc"];

const SNAPSHOT: &[&str] = &[
    "JournalBegin",
    "JournalUpdate",
    "SocketsCreate",
    "Snapshot",
    "SnapshotTaken",
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
    "OverlayRemove",
    "ArchiveEnd",
    "ArchiveRename",
];
const PULL: &[&str] = &[
    "JournalBegin",
    "JournalUpdate",
    "SocketsCreate",
    "PullBegin",
    "PullBegun",
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

/// All of a round.
pub struct World {
    pub random: Random,
    pub name: String,
    pub method: &'static str,
    pub disks: Disks,
    /// What the operator's definition says of each disk.
    pub elements: BTreeMap<String, String>,
    /// The rest of that definition.
    pub frame: String,
    /// Internal snapshots that the operator has taken.
    pub taken: BTreeMap<String, Taken>,
    /// The disks of the guest when it was saved.
    pub saved: Option<BTreeSet<String>>,
    /// The same when it was saved to a file of the operator's.
    pub saved_to_file: Option<BTreeSet<String>>,
    /// The host that the guest was migrated to.
    pub away: Option<Host>,
    /// All that reports and recoveries have said.
    pub told: String,
    /// Archives that were looked at.
    pub seen: BTreeSet<PathBuf>,
    /// What was done, for a reader.
    pub done: Vec<String>,
    pub program: Program,
    pub guest: Guest,
    pub lab: Lab,
}

/// What a round begins with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Start {
    Paused,
    Running,
    Off,
}

impl World {
    pub fn new(seed: u64, method: &'static str, start: Start) -> Self {
        let (lab, name) = (Lab::new(), format!("chaos-{seed}"));
        let disks = FIRST.map(|target| Disk::qcow2(target).size("4M"));
        let guest = disks.into_iter().fold(lab.guest(&name), |guest, disk| guest.disk(disk)).define();
        for target in SPARE {
            let image = image_of(&lab, &name, target);
            qemu_img(&["create", "-q", "-f", "qcow2", image.to_str().unwrap(), "4M"]);
        }
        let all: Vec<_> = FIRST.into_iter().chain(SPARE).collect();
        let keys = json!({"method": method, "quiesce": "never", "compression": {"method": "none"}});
        let program = Program::new(&lab).domain(&name, keys);
        let mut world = World {
            random: Random::new(seed),
            method,
            disks: Disks::new(&all, &FIRST, start != Start::Off),
            elements: BTreeMap::new(),
            frame: String::new(),
            taken: BTreeMap::new(),
            saved: None,
            saved_to_file: None,
            away: None,
            told: String::new(),
            seen: BTreeSet::new(),
            done: vec![],
            program,
            guest,
            lab,
            name,
        };
        if start != Start::Off {
            world.guest.start_paused();
        }
        if start == Start::Running {
            world.virsh(&["resume"]).expect("a paused guest runs on");
        }
        let xml = world.guest.inactive_xml();
        (world.elements, world.frame) = (elements(&xml), frame(&xml));
        for target in FIRST {
            world.write(target);
        }
        world
    }

    pub fn image(&self, target: &str) -> PathBuf {
        image_of(&self.lab, &self.name, target)
    }

    /// Notes what happens.
    pub fn note(&mut self, what: impl Into<String>) {
        self.done.push(what.into());
    }

    /// A command of `virsh` whose first argument is the guest.
    pub fn virsh(&self, words: &[&str]) -> Result<String, String> {
        self.where_it_is(|| try_virsh(&[&[words[0], &self.name], &words[1..]].concat()))
    }

    /// Does this on the host that the guest is on.
    pub fn where_it_is<T>(&self, act: impl FnOnce() -> T) -> T {
        match &self.away {
            Some(host) => host.on(act),
            None => act(),
        }
    }

    /// Any other command of `virsh`.
    pub fn virsh_plain(&self, words: &[&str]) -> Result<(), String> {
        try_virsh(words).map(drop)
    }

    pub fn state(&self) -> String {
        self.virsh(&["domstate"]).map_or_else(|_| "undefined".to_owned(), |state| state.trim().to_owned())
    }

    /// The guest writes to a disk that it has. One that is off writes before its backup only.
    pub fn write(&mut self, target: &str) {
        let (slot, byte) = (self.random.below(SLOTS), self.disks.fresh());
        let at = (slot * SLOT) as u64;
        if self.disks.active {
            self.where_it_is(|| self.guest.write(target, byte, at, SLOT as u64));
        } else {
            self.guest.write_while_off(target, byte, at, SLOT as u64);
        }
        self.disks.written(target, slot, byte);
        self.note(format!("write {byte:#x} to {target}, slot {slot}"));
    }

    /// Begins a backup and waits until it stands still at a step of its own, or has ended before.
    pub fn backup(&mut self) -> Backup {
        let steps = match (self.disks.active, self.method) {
            (false, _) => DIRECT,
            (true, "pull") => PULL,
            (true, _) => SNAPSHOT,
        };
        let (step, mark) = (self.random.pick(steps), self.lab.path("held"));
        let step_time = if step.contains('#') { step.to_owned() } else { format!("{step}#1") };
        let mut command = self.program.command();
        command.args(["backup", "--json"]).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut run = command.env("KVMBACKUP_FAULT", format!("{step_time}:hold={}", mark.display())).spawn().unwrap();
        wait_until(BACKUP_DEADLINE, "the backup to reach its step", || {
            mark.exists() || run.try_wait().unwrap().is_some()
        });
        let held = mark.exists();
        self.note(format!("backup by {} {} {step}", self.method, if held { "at" } else { "without" }));
        Backup { run, mark, held }
    }
}

fn image_of(lab: &Lab, guest: &str, target: &str) -> PathBuf {
    // The folder keeps its name when the guest gets another.
    let guest = guest.split('.').next().unwrap_or_default();
    lab.path("images").join(guest).join(format!("{target}.qcow2"))
}

/// A backup that was begun.
pub struct Backup {
    run: Child,
    mark: PathBuf,
    held: bool,
}

impl Backup {
    pub fn is_held(&self) -> bool {
        self.held
    }

    /// Lets it go on to its end.
    pub fn finish(mut self) -> Ran {
        if self.held {
            fs::remove_file(&self.mark).unwrap();
        }
        wait_until(BACKUP_DEADLINE, "the backup to end", || self.run.try_wait().unwrap().is_some());
        Ran::from(self.run.wait_with_output().unwrap())
    }

    pub fn kill(mut self) {
        self.run.kill().unwrap();
        self.run.wait().unwrap();
        let _ = fs::remove_file(&self.mark);
    }
}

/// The `<disk>` elements of a domain's XML, by target.
pub fn elements(xml: &str) -> BTreeMap<String, String> {
    let disks = xml.split("<disk ").skip(1).map(|rest| rest.split("</disk>").next().unwrap_or_default());
    disks.map(|disk| (target_of(disk), disk.to_owned())).collect()
}

fn target_of(disk: &str) -> String {
    let (_, target) = disk.split_once("<target dev='").expect("a disk has a target");
    target.split('\'').next().unwrap_or_default().to_owned()
}

/// A domain's XML without its disks.
pub fn frame(xml: &str) -> String {
    let mut parts = xml.split("<disk ");
    let first = parts.next().unwrap_or_default().to_owned();
    let rest = parts.map(|part| part.split_once("</disk>").map_or("", |(_, after)| after.trim_start()));
    rest.fold(first.trim_end().to_owned(), |frame, part| frame + part)
}

/// All files with a name of kvmbackup's in a folder.
pub fn ours_in(folder: &Path) -> Vec<String> {
    let found = run("find", &[folder.to_str().unwrap(), "-name", "*kvmbackup*"]);
    found.lines().map(str::to_owned).collect()
}

/// Waits until no process serves an image of the lab any more.
pub fn wait_for_servers(lab: &Lab) {
    let folder = lab.dir().to_str().unwrap().to_owned();
    wait_until(DEADLINE, "the end of every qemu-nbd", || {
        let lines = String::from_utf8_lossy(&crate::lab::try_run("pgrep", &["-a", "qemu-nbd"]).stdout).into_owned();
        !lines.contains(&folder)
    });
}
