//! Faults at the steps of the program (`src/sys/step.rs`): the steps of a run, and runs with a fault at one of them.
#![allow(dead_code, unused_imports, reason = "every test binary compiles this and uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is test code")]

mod scenarios;

use std::collections::BTreeSet;
use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use kvmbackup::sys::step::Step;
pub use scenarios::*;

/// How long to wait for a step.
const DEADLINE: Duration = Duration::from_secs(120);

/// A step, and the number of times that a run has reached it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct At {
    /// The step.
    pub step: Step,
    /// The first time is 1.
    pub time: usize,
}

impl From<Step> for At {
    /// The first time that it is reached.
    fn from(step: Step) -> At {
        At { step, time: 1 }
    }
}

impl fmt::Debug for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.step.name(), self.time)
    }
}

/// Runs a command successfully; returns its steps in order.
pub fn of(command: &mut Command) -> Vec<At> {
    let output = command.env("KVMBACKUP_LOG", "kvmbackup::sys::step=debug").env("NO_COLOR", "1").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    in_trace(&String::from_utf8_lossy(&output.stderr))
}

/// The steps in a trace, in order.
pub fn in_trace(trace: &str) -> Vec<At> {
    let mut steps: Vec<At> = Vec::new();
    for (_, rest) in trace.lines().filter_map(|line| line.split_once("step=\"")) {
        let name = rest.split('"').next().unwrap_or_default();
        let step = *Step::ALL.iter().find(|step| step.name() == name).expect("a step has its name from the list");
        let time = 1 + steps.iter().filter(|at| at.step == step).count();
        steps.push(At { step, time });
    }
    steps
}

/// Panics unless each of these steps was reached.
pub fn assert_reached(reached: &[At], steps: &[&[Step]]) {
    let reached: BTreeSet<_> = reached.iter().map(|at| at.step.name()).collect();
    let missing: Vec<_> =
        steps.concat().iter().map(|step| step.name()).filter(|name| !reached.contains(name)).collect();
    assert!(missing.is_empty(), "not reached: {missing:?}, among {reached:?}");
}

/// For each step that is reached repeatedly, the first time and the last.
pub fn ends(steps: &[At]) -> Vec<At> {
    let is_last = |at: &At| !steps.iter().any(|other| other.step == at.step && other.time > at.time);
    steps.iter().copied().filter(|at| at.time == 1 || is_last(at)).collect()
}

/// Each step the first time that it is reached.
pub fn firsts(steps: &[At]) -> Vec<At> {
    steps.iter().copied().filter(|at| at.time == 1).collect()
}

/// Those of a list.
pub fn only(steps: &[At], list: &[Step]) -> Vec<At> {
    steps.iter().copied().filter(|at| list.contains(&at.step)).collect()
}

/// Adds a fault to a command at a step.
pub fn fault<'a>(command: &'a mut Command, at: At, action: &str) -> &'a mut Command {
    command.env("KVMBACKUP_FAULT", format!("{at:?}:{action}"))
}

/// Runs a command and kills it with SIGKILL at a step, which must be reached.
pub fn kill(command: &mut Command, at: At) {
    let output: Output = fault(command, at, "kill").output().unwrap();
    assert_eq!(output.status.signal(), Some(9), "it was not killed at {at:?}: {output:?}");
}

/// Starts a command and waits until it stops at a step; `mark` is a path for the program and the test.
pub fn hold(command: &mut Command, at: At, mark: &Path) -> Held {
    let command = fault(command, at, &format!("hold={}", mark.display()));
    let mut run = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let began = Instant::now();
    while !mark.exists() {
        let ended = run.try_wait().unwrap();
        assert!(ended.is_none(), "it has ended before {at:?}: {ended:?}");
        assert!(began.elapsed() < DEADLINE, "waited in vain for {at:?}");
        sleep(Duration::from_millis(20));
    }
    Held { run, mark: mark.to_owned() }
}

/// A program that is stopped at a step.
pub struct Held {
    run: Child,
    mark: PathBuf,
}

impl Held {
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.run.id()
    }

    /// Resumes it.
    pub fn go_on(self) -> Child {
        std::fs::remove_file(&self.mark).expect("the program is stopped");
        self.run
    }

    /// Kills it, and waits until it is gone.
    pub fn kill(mut self) {
        self.run.kill().expect("a child can be killed");
        self.run.wait().expect("a child can be waited for");
    }

    /// Resumes it, and waits until it has ended.
    pub fn finish(self) -> Output {
        self.go_on().wait_with_output().unwrap()
    }
}
