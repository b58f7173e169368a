//! A signal, or a failure, at every step of a backup of a running guest: the guest is unharmed, everything else is
//! saved, and the report and the exit code say what happened. The other steps are in `tests/program/fault_off.rs`.

use crate::steps;
use std::process::Command;

use crate::lab::{Disk, Guest, Lab, Program, Ran, Report, run};
use crate::steps::{At, HARMLESS, OF_RUN, PULL, SIGNALS, SNAPSHOT};
use kvmbackup::sys::step::Step;
use serde_json::json;

/// Two paused guests, the first of which gets the faults.
struct Scene {
    guests: [Guest; 2],
    program: Program,
    lab: Lab,
}

impl Scene {
    fn new(name: &str, method: &str) -> Scene {
        let lab = Lab::new();
        let guests = ["a", "b"].map(|end| lab.guest(&format!("{name}-{end}")).disk(Disk::qcow2("vda")).paused());
        let session = lab.script("session", "echo READY\nread word\n");
        let hooks = json!([
            {"name": "lock", "type": "session", "phase": "snapshot", "command": [session]},
            {"name": "note", "phase": ["pre-domain", "post-domain"], "command": [lab.script("note", "exit 0\n")]},
        ]);
        let program = Program::new(&lab).set("metrics", json!({"textfile": lab.path("kvmbackup.prom")}));
        let program = guests.iter().fold(program, |program, guest| {
            let keys = json!({"method": method, "quiesce": "never", "rotate": 2, "hooks": hooks});
            program.domain(guest.name(), keys)
        });
        let scene = Scene { guests, program, lab };
        (0..2).for_each(|_| drop(scene.program.backup_well()));
        scene
    }

    fn backup(&self) -> Command {
        let mut command = self.program.command();
        command.args(["backup", "--json"]);
        command
    }

    fn steps(&self) -> Vec<At> {
        steps::of(&mut self.backup())
    }

    fn with(&self, at: At, action: &str) -> Ran {
        Ran::from(steps::fault(&mut self.backup(), at, action).output().unwrap())
    }

    fn write(&self, number: usize) -> (u8, u64) {
        let (pattern, offset) = (number as u8 % 250 + 1, number as u64 % 512 * 65536);
        self.guests[0].write("vda", pattern, offset, 65536);
        (pattern, offset)
    }

    /// Panics unless nothing is left, the points are good, and the guest has its writes.
    fn assert_right(&self, at: At, (pattern, offset): (u8, u64)) {
        self.guests.iter().for_each(|guest| self.program.assert_no_leftovers(guest));
        self.guests[0].assert_holds("vda", pattern, offset, 65536);
        assert!(self.guests.iter().all(|guest| guest.state() == "paused"), "{at:?}");
        let temporary = run("find", &[self.lab.dir().to_str().unwrap(), "-name", "*.tmp", "-o", "-name", "*.part"]);
        assert_eq!(temporary, "", "{at:?}");
        let verified = self.program.run(&["verify", "--all"]);
        assert_eq!(verified.code, 0, "{at:?}: {verified:#?}");
        for guest in &self.guests {
            let folder = self.program.backups().join(guest.name());
            assert!(std::fs::read_dir(folder).unwrap().count() >= 2, "{at:?}: the last good points stay");
        }
    }

    fn stopped_at_each(&self, steps: &[At], signals: impl Fn(usize) -> Vec<(&'static str, i32)>) {
        for (number, at) in steps.iter().enumerate() {
            for (name, value) in signals(number) {
                let written = self.write(number);
                let report = Report::from(self.with(*at, &format!("signal={name}")));
                // At the steps after the last domain the work is done; before that, it is not.
                let done = self.guests.iter().all(|guest| {
                    let domains = report.json["domains"].as_array().unwrap();
                    domains.iter().any(|domain| domain["domain"] == guest.name() && domain["outcome"] == "success")
                });
                let expected = report.json["signal"].as_i64().map_or(0, |signal| 128 + signal as i32);
                assert_eq!(report.ran.code, expected, "{at:?} {name}: {report:#?}");
                assert!(done || expected == 128 + value, "{at:?} {name}: {report:#?}");
                assert_eq!(report.json["recovered"], json!([]), "{at:?} {name}: the previous run ended cleanly");
                self.assert_right(*at, written);
            }
        }
    }

    fn failed_at_each(&self, steps: &[At]) {
        for (number, at) in steps.iter().enumerate() {
            let written = self.write(number);
            let ran = self.with(*at, "fail");
            let told = format!("{}{}", ran.stdout, ran.stderr);
            let cause = format!("injected at the step {}", at.step.name());
            assert!(ran.code != 0 || HARMLESS.contains(&at.step) || told.contains(&cause), "{at:?}: {ran:#?}");
            assert!(ran.code == 0 || told.contains(&cause), "{at:?}: {ran:#?}");
            let of_run = OF_RUN.contains(&at.step) || *at == Step::StateFolder.into();
            if !of_run {
                let report = Report::from(ran);
                // If the step was reached before, this may be that of the second domain.
                let saved = |guest: &&Guest| report.domain(guest.name())["outcome"] == "success";
                let saved = self.guests.iter().filter(saved).count();
                assert!(saved >= 1, "{at:?}: the other domain is saved: {report:#?}");
            }
            let recovered = self.program.run(&["recover"]);
            assert_eq!(recovered.code, 0, "{at:?}: {recovered:#?}");
            // Removed only by the next run.
            let next = self.program.backup();
            assert_eq!(next.ran.code, 0, "{at:?}: {next:#?}");
            self.assert_right(*at, written);
        }
    }
}

/// Each step once, with one of the signals.
fn in_turn(number: usize) -> Vec<(&'static str, i32)> {
    vec![SIGNALS[number % 3]]
}

#[test]
fn signal_at_any_step_of_a_snapshot_ends_the_run_cleanly() {
    let scene = Scene::new("signal-snapshot", "snapshot");
    let steps = scene.steps();
    steps::assert_reached(&steps, &[SNAPSHOT]);
    scene.stopped_at_each(&steps::only(&steps::firsts(&steps), SNAPSHOT), in_turn);
}

#[test]
fn failure_at_any_step_of_a_snapshot_is_reported_and_affects_no_other_domain() {
    let scene = Scene::new("fail-snapshot", "snapshot");
    let steps = scene.steps();
    scene.failed_at_each(&steps::only(&steps::firsts(&steps), SNAPSHOT));
}

#[test]
fn failure_at_any_step_of_a_pull_is_reported_and_affects_no_other_domain() {
    let scene = Scene::new("fail-pull", "pull");
    let steps = scene.steps();
    steps::assert_reached(&steps, &[PULL]);
    scene.failed_at_each(&steps::only(&steps::firsts(&steps), PULL));
}

#[test]
#[ignore = "soak: three signals at every step, each time it is reached"]
fn every_signal_at_every_step_of_every_method_ends_the_run_cleanly() {
    for method in ["snapshot", "pull"] {
        let scene = Scene::new(&format!("signals-{method}"), method);
        scene.stopped_at_each(&scene.steps(), |_| SIGNALS.to_vec());
    }
}

#[test]
#[ignore = "soak: a failure at every step, each time it is reached"]
fn failure_at_every_step_of_every_method_is_reported_and_affects_no_other_domain() {
    for method in ["snapshot", "pull"] {
        let scene = Scene::new(&format!("fails-{method}"), method);
        scene.failed_at_each(&scene.steps());
    }
}
