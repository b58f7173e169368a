//! A guest, its backup, and the effects of the operator's actions so far.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde_json::json;

use super::disks::{Disks, SLOT, SLOTS};
use super::random::Random;
use super::setting::Place;
use super::snapshots::{Kept, Taken};
use crate::lab::{DEADLINE, Disk, Guest, Host, Lab, Program, qemu_img, run, try_virsh, wait_until};

/// Disks that the guest starts with; the second can be detached.
pub const FIRST: [&str; 2] = ["vda", "sda"];
/// Disks that can be attached.
pub const SPARE: [&str; 2] = ["sdb", "sdc"];

/// The state of a round.
pub struct World {
    pub random: Random,
    pub name: String,
    pub method: &'static str,
    pub disks: Disks,
    /// The operator's definition of each disk.
    pub elements: BTreeMap<String, String>,
    /// The rest of that definition.
    pub frame: String,
    /// Internal snapshots that the operator has taken.
    pub taken: BTreeMap<String, Taken>,
    /// External snapshots that libvirt keeps.
    pub kept: BTreeMap<String, Kept>,
    /// Disks that the operator has moved to another image than their first.
    pub moved: BTreeSet<String>,
    /// Disks whose images the operator has committed into the lowest.
    pub committed: BTreeSet<String>,
    /// The domain was undefined. This is its definition from then, or none if the operator has a better one.
    pub undefined: Option<Option<String>>,
    /// The definition names images that are older than the guest's last writes.
    pub forked: bool,
    /// Whether the operator has filled the file system of the images.
    pub full: bool,
    /// Whether the operator has frozen the guest; none: unknown.
    pub frozen: Option<bool>,
    pub has_system: bool,
    /// The disks of the guest when it was saved (managed save).
    pub saved: Option<BTreeSet<String>>,
    /// The same when it was saved to a file of the operator.
    pub saved_to_file: Option<BTreeSet<String>>,
    /// The host that the guest was migrated to.
    pub away: Option<Host>,
    /// All output of reports and recoveries.
    pub told: String,
    /// Archives that were checked.
    pub seen: BTreeSet<PathBuf>,
    /// The actions so far, for the reader of a failure.
    pub done: Vec<String>,
    pub program: Program,
    pub guest: Guest,
    /// The round's own host.
    pub host: Option<Rc<Host>>,
    pub lab: Rc<Lab>,
}

/// The initial state of a round.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Start {
    Paused,
    Running,
    Off,
    /// With an operating system that has an agent and does not write to the disks.
    System,
}

impl World {
    pub fn new(seed: u64, place: &Place, name: &str, (method, start): (&'static str, Start)) -> Self {
        let (lab, has_system, name) = (Rc::clone(&place.lab), start == Start::System, name.to_owned());
        let disks = FIRST.map(|target| Disk::qcow2(target).size("4M"));
        let guest = disks.into_iter().fold(lab.guest(&name), |guest, disk| guest.disk(disk));
        let guest = if has_system { guest.system("kb.nodisks") } else { guest }.define();
        for target in SPARE {
            let image = image_of(&lab, &name, target);
            qemu_img(&["create", "-q", "-f", "qcow2", image.to_str().unwrap(), "4M"]);
        }
        let all: Vec<_> = FIRST.into_iter().chain(SPARE).collect();
        let quiesce = if has_system { "prefer" } else { "never" };
        let keys = json!({"method": method, "quiesce": quiesce, "compression": {"method": "none"}});
        let program = Program::new(&lab).domain(&name, keys);
        let mut world = World {
            random: Random::new(seed),
            method,
            disks: Disks::new(&all, &FIRST, start != Start::Off),
            elements: BTreeMap::new(),
            frame: String::new(),
            taken: BTreeMap::new(),
            kept: BTreeMap::new(),
            moved: BTreeSet::new(),
            committed: BTreeSet::new(),
            undefined: None,
            forked: false,
            full: false,
            frozen: Some(false),
            has_system,
            saved: None,
            saved_to_file: None,
            away: None,
            told: String::new(),
            seen: BTreeSet::new(),
            done: vec![],
            program,
            guest,
            host: place.host.clone(),
            lab,
            name,
        };
        match start {
            Start::Off => {}
            Start::Paused => world.guest.start_paused(),
            Start::Running => world.virsh_plain(&["start", &world.name]).expect("the guest starts"),
            Start::System => world.guest.boot(),
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

    /// Notes an event.
    pub fn note(&mut self, what: impl Into<String>) {
        self.done.push(what.into());
    }

    /// A command of `virsh` whose first argument is the guest.
    pub fn virsh(&self, words: &[&str]) -> Result<String, String> {
        self.where_it_is(|| try_virsh(&[&[words[0], &self.name], &words[1..]].concat()))
    }

    /// Runs this on the host of the guest.
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

    /// The guest writes to one of its disks. A guest that is off writes only before its backup.
    pub fn write(&mut self, target: &str) {
        let (slot, byte) = (self.random.below(SLOTS), self.disks.fresh());
        let (at, len) = ((slot * SLOT) as u64, SLOT as u64);
        self.note(format!("write {byte:#x} to {target}, slot {slot}"));
        if self.full {
            let write = format!("write -P {byte:#x} {at} {len}");
            self.where_it_is(|| self.guest.qemu_io(target, &[&write, "flush"]));
            if self.slots(target)[slot] != byte {
                self.note("there was no room");
                return;
            }
        } else if self.disks.active {
            self.where_it_is(|| self.guest.write(target, byte, at, len));
        } else {
            self.guest.write_while_off(target, byte, at, len);
        }
        self.disks.written(target, slot, byte);
    }
}

fn image_of(lab: &Lab, guest: &str, target: &str) -> PathBuf {
    // The directory keeps its name when the guest is renamed.
    let guest = guest.split('.').next().unwrap_or_default();
    lab.path("images").join(guest).join(format!("{target}.qcow2"))
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

/// All files in a directory with a name that kvmbackup chooses.
pub fn ours_in(folder: &Path) -> Vec<String> {
    let found = run("find", &[folder.to_str().unwrap(), "-name", "*kvmbackup*"]);
    found.lines().map(str::to_owned).collect()
}

/// Waits until no process serves an image of the lab.
pub fn wait_for_servers(lab: &Lab) {
    let folder = lab.dir().to_str().unwrap().to_owned();
    wait_until(DEADLINE, "the end of every qemu-nbd", || {
        let lines = String::from_utf8_lossy(&crate::lab::try_run("pgrep", &["-a", "qemu-nbd"]).stdout).into_owned();
        !lines.contains(&folder)
    });
}
