//! SIGKILL at every step of the program, and the state after the next start: the guest is on its base, thawed and
//! unharmed, published restore points are good, and nothing else is left.

use crate::steps;
use std::fs;
use std::process::Command;

use crate::lab::{DEADLINE, Disk, Guest, Lab, Program, Unpacked, assert_same, qemu_img, run, wait_until};
use crate::steps::{At, FREEZE, OFF, PULL, SNAPSHOT};
use chrono::Utc;
use kvmbackup::sys::step::Step;
use serde_json::json;

/// A guest, and a program with everything that has its own steps: hooks, a session, rotation, metrics.
struct Scene {
    guest: Guest,
    targets: Vec<String>,
    booted: bool,
    program: Program,
    lab: Lab,
}

impl Scene {
    fn new(name: &str, targets: &[&str], method: &str, booted: bool) -> Scene {
        let lab = Lab::new();
        let disks = targets.iter().map(|target| Disk::qcow2(target));
        let guest = disks.fold(lab.guest(name), |guest, disk| guest.disk(disk));
        let guest = if booted { guest.system("kb.writer").boot() } else { guest.paused() };
        let program = program(&lab, name, method, if booted { "require" } else { "never" });
        let targets = targets.iter().map(|target| (*target).to_owned()).collect();
        let scene = Scene { guest, targets, booted, program, lab };
        if booted {
            scene.wait_for_the_writer();
        }
        // Two points stay; with the next one, rotation removes one.
        (0..2).for_each(|_| drop(scene.program.backup_well()));
        scene
    }

    fn wait_for_the_writer(&self) {
        for target in &self.targets {
            let begun = || self.guest.agent_exec(&format!("grep -c . /mnt/{target}/writer/SUMS")).stdout != "0\n";
            wait_until(DEADLINE, "the writer's first file", begun);
        }
    }

    fn command(&self, word: &str) -> Command {
        let mut command = self.program.command();
        command.arg(word);
        command
    }

    /// The steps of a successful run.
    fn steps(&self, word: &str) -> Vec<At> {
        steps::of(&mut self.command(word))
    }

    /// Kills a backup at each of these steps, and panics unless the next one recovers everything each time.
    fn kill_at_each(&self, steps: &[At]) {
        for (number, at) in steps.iter().enumerate() {
            steps::kill(&mut self.command("backup"), *at);
            let held = self.journal();
            let written = self.write(number);
            let report = self.program.backup_well();
            let recovered = report.json["recovered"].as_array().unwrap();
            assert_eq!(recovered.len(), held, "{at:?}: {report:#?}");
            self.assert_right(*at, &written);
            if !self.booted {
                self.assert_points_are_identical(*at);
            }
        }
        self.assert_restores();
    }

    /// Writes to a paused guest (a booted one writes by itself); returns what must be on its disks from now on.
    fn write(&self, number: usize) -> Written {
        if self.booted {
            return Written::Files;
        }
        let (pattern, offset) = (number as u8 % 250 + 1, number as u64 % 512 * 65536);
        self.targets.iter().for_each(|target| self.guest.write(target, pattern, offset, 65536));
        Written::Pattern(pattern, offset)
    }

    fn assert_right(&self, at: At, written: &Written) {
        self.program.assert_no_leftovers(&self.guest);
        let temporary = run("find", &[self.lab.dir().to_str().unwrap(), "-name", "*.tmp", "-o", "-name", "*.part"]);
        assert_eq!(temporary, "", "{at:?}");
        for target in &self.targets {
            match written {
                Written::Pattern(pattern, offset) => self.guest.assert_holds(target, *pattern, *offset, 65536),
                Written::Files => drop(self.guest.check_writer_sums(target)),
            }
        }
        assert_eq!(self.guest.state(), if self.booted { "running" } else { "paused" }, "{at:?}");
        let verified = self.program.run(&["verify", "--all"]);
        assert_eq!(verified.code, 0, "{at:?}: {verified:#?}");
    }

    /// The newest point matches the disks now. The previous one matches the disks when it was the newest.
    fn assert_points_are_identical(&self, at: At) {
        let listed = self.program.run(&["list", "--json"]).stdout;
        let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
        let points = listed["points"].as_array().unwrap();
        let mut ids: Vec<_> = points.iter().map(|point| point["id"].as_str().unwrap()).collect();
        ids.sort_unstable();
        for (number, id) in ids.iter().rev().enumerate() {
            let [folder, known] = ["restored", "known"].map(|name| self.lab.path(name).join(id));
            let to = folder.to_str().unwrap();
            let restored = self.program.run(&["restore", self.guest.name(), "--at", id, "--to", to]);
            assert_eq!(restored.code, 0, "{at:?}: {restored:#?}");
            for target in &self.targets {
                let image = format!("{target}.qcow2");
                if number == 0 {
                    assert_same(&folder.join(&image), "qcow2", &self.guest.disk_source(target).unwrap(), "qcow2");
                } else if known.exists() {
                    assert_same(&folder.join(&image), "qcow2", &known.join(&image), "qcow2");
                }
            }
            if number == 0 {
                fs::create_dir_all(known.parent().unwrap()).unwrap();
                fs::rename(&folder, &known).unwrap();
            } else {
                fs::remove_dir_all(&folder).unwrap();
            }
        }
    }

    /// If the guest has a file system, every listed point contains it intact.
    fn assert_restores(&self) {
        let folder = self.program.backups().join(self.guest.name());
        // Names of points are one second apart, but runs may follow each other faster. Rotation does not count points
        // in the future.
        wait_until(DEADLINE, "the clock to pass the newest point", || {
            let names = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let now = Utc::now().format("%Y%m%dT%H%M%SZ").to_string();
            names
                .map(|name| name.split('.').next().unwrap()[self.guest.name().len() + 1..].to_owned())
                .all(|at| at < now)
        });
        self.program.backup_well();
        let mut archives = 0;
        for entry in fs::read_dir(folder).unwrap() {
            let archive = Unpacked::from(&entry.unwrap().path());
            archives += 1;
            for target in self.targets.iter().filter(|_| self.booted) {
                let raw = self.lab.path("restored.raw");
                let [disk, raw] = [archive.disk(target), raw].map(|path| path.to_str().unwrap().to_owned());
                qemu_img(&["convert", "-f", "qcow2", "-O", "raw", &disk, &raw]);
                // It was frozen, so no journal needs to be replayed.
                run("e2fsck", &["-f", "-n", &raw]);
                fs::remove_file(raw).unwrap();
            }
        }
        assert_eq!(archives, 2, "rotation continues");
    }

    fn journal(&self) -> usize {
        let entries = fs::read_dir(self.program.state().join("journal")).into_iter().flatten().flatten();
        entries.filter(|entry| entry.path().extension().is_some_and(|ending| ending == "json")).count()
    }
}

/// Data that the guest wrote.
enum Written {
    /// Bytes of a pattern at an offset, on every disk.
    Pattern(u8, u64),
    /// The writer's files.
    Files,
}

fn program(lab: &Lab, guest: &str, method: &str, quiesce: &str) -> Program {
    let session = lab.script("session", "echo READY\nread word\n");
    let hooks = json!([
        {"name": "lock", "type": "session", "phase": "snapshot", "command": [session]},
        {"name": "note", "phase": ["pre-domain", "post-domain"], "command": [lab.script("note", "exit 0\n")]},
    ]);
    let keys = json!({"method": method, "quiesce": quiesce, "rotate": 2, "hooks": hooks});
    Program::new(lab).set("metrics", json!({"textfile": lab.path("kvmbackup.prom")})).domain(guest, keys)
}

/// From the first of these steps, until the step after the last of them.
fn span(steps: &[At], list: &[Step]) -> Vec<At> {
    let is_one = |at: &At| list.contains(&at.step);
    let (first, last) = (steps.iter().position(is_one).unwrap(), steps.iter().rposition(is_one).unwrap());
    steps[first..(last + 2).min(steps.len())].to_vec()
}

#[test]
fn snapshot_backup_killed_at_any_step_is_recovered_by_the_next_run() {
    let scene = Scene::new("crash-snapshot", &["vda"], "snapshot", false);
    let steps = scene.steps("backup");
    steps::assert_reached(&steps, &[SNAPSHOT]);
    scene.kill_at_each(&steps::ends(&span(&steps, SNAPSHOT)));
}

#[test]
fn pull_backup_killed_at_any_step_is_recovered_by_the_next_run() {
    let scene = Scene::new("crash-pull", &["vda"], "pull", false);
    let steps = scene.steps("backup");
    steps::assert_reached(&steps, &[PULL]);
    scene.kill_at_each(&steps::ends(&span(&steps, PULL)));
}

#[test]
fn guest_that_writes_continuously_is_unharmed_after_a_kill_at_any_relevant_step() {
    let scene = Scene::new("crash-writes", &["vda"], "snapshot", true);
    let steps = scene.steps("backup");
    steps::assert_reached(&steps, &[SNAPSHOT, FREEZE]);
    // The test above kills the backup of a paused guest at every step of a snapshot. This test uses the steps that a
    // running system notices.
    let noticed = [FREEZE, &[Step::SnapshotTaken, Step::CommitBegun, Step::Pivot]].concat();
    scene.kill_at_each(&steps::only(&steps::firsts(&steps), &noticed));
}

#[test]
#[ignore = "soak: kills at every step, each time it is reached, for two disks of a guest that writes continuously"]
fn two_disks_of_a_guest_that_writes_continuously_are_unharmed_after_every_kill() {
    for method in ["snapshot", "pull"] {
        let scene = Scene::new(&format!("crash-two-{method}"), &["vda", "sda"], method, true);
        scene.kill_at_each(&scene.steps("backup"));
    }
}

/// Kills a backup, and then recovery at each of its steps. `meanwhile` changes the guest in between, and `after` brings
/// it back.
fn recovery_is_killed(scene: &Scene, list: &[Step], meanwhile: impl Fn(&Guest), after: impl Fn(&Guest)) {
    let interrupt = |number| {
        steps::kill(&mut scene.command("backup"), Step::DiskRead.into());
        let written = scene.write(number);
        meanwhile(&scene.guest);
        written
    };
    interrupt(0);
    let steps = scene.steps("recover");
    steps::assert_reached(&steps, &[list]);
    after(&scene.guest);
    for (number, at) in steps.iter().enumerate() {
        let written = interrupt(number + 1);
        steps::kill(&mut scene.command("recover"), *at);
        let recovered = scene.program.run(&["recover"]);
        assert_eq!(recovered.code, 0, "{at:?}: {recovered:#?}");
        let again = scene.program.run(&["recover"]);
        assert!(again.code == 0 && again.stdout.starts_with("no interrupted run in "), "{at:?}: {again:#?}");
        after(&scene.guest);
        scene.assert_right(*at, &written);
    }
}

#[test]
fn recovery_killed_at_any_step_is_completed_by_the_next() {
    let scene = Scene::new("recovery-killed", &["vda"], "snapshot", false);
    recovery_is_killed(&scene, &[Step::CommitBegin, Step::Pivoted, Step::OverlayRemove], |_| (), |_| ());
}

#[test]
fn recovery_of_a_guest_that_is_off_killed_at_any_step_is_completed_by_the_next() {
    let scene = Scene::new("recovery-off-killed", &["vda"], "snapshot", false);
    recovery_is_killed(&scene, OFF, Guest::destroy, Guest::start_paused);
}

#[test]
fn recovery_of_a_pull_killed_at_any_step_is_completed_by_the_next() {
    let scene = Scene::new("recovery-pull-killed", &["vda"], "pull", false);
    recovery_is_killed(&scene, &[Step::PullEnd, Step::PullEnded, Step::ScratchRemove], |_| (), |_| ());
}
