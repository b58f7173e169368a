//! Injects faults at steps for tests, as `KVMBACKUP_FAULT` requests. Exists only in debug builds. Must not be reachable in a
//! release build.
//!
//! `STEP[#N]:ACTION` acts when the step is reached for the N-th time (default 1). `;` separates several faults. The actions:
//!
//! - `kill`: SIGKILL to this process
//! - `fail`: the step fails
//! - `signal=TERM`, `INT` or `HUP`: this process receives the signal and continues
//! - `hold=PATH`: the file is created, and the program waits until a test removes it

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGKILL, SIGTERM};
use signal_hook::low_level::raise;

use super::Step;

const VARIABLE: &str = "KVMBACKUP_FAULT";
/// Interval of checks for the file of `hold`.
const LOOK: Duration = Duration::from_millis(10);

#[derive(Debug, PartialEq, Eq)]
struct Fault {
    step: &'static str,
    /// Counts from 1.
    time: usize,
    action: Action,
}

#[derive(Debug, PartialEq, Eq)]
enum Action {
    Fail,
    /// Includes SIGKILL.
    Signal(i32),
    Hold(PathBuf),
}

/// A fault, and how often its step has been reached.
type Asked = (Fault, AtomicUsize);

/// Injects the requested faults at this step.
pub(super) fn act(step: Step) -> io::Result<()> {
    static FAULTS: OnceLock<Vec<Asked>> = OnceLock::new();
    let faults = match FAULTS.get() {
        Some(faults) => faults,
        None => {
            let asked = std::env::var(VARIABLE).map_or_else(|_| Ok(Vec::new()), |text| parse_all(&text))?;
            FAULTS.get_or_init(|| asked.into_iter().map(|fault| (fault, AtomicUsize::new(0))).collect())
        }
    };
    for (fault, times) in faults.iter().filter(|(fault, _)| fault.step == step.name()) {
        if times.fetch_add(1, Ordering::Relaxed) + 1 == fault.time {
            take(fault)?;
        }
    }
    Ok(())
}

fn take(fault: &Fault) -> io::Result<()> {
    match &fault.action {
        Action::Fail => Err(io::Error::other(format!("a fault was injected at the step {}", fault.step))),
        Action::Signal(signal) => raise(*signal),
        Action::Hold(path) => {
            fs::write(path, "")?;
            while path.exists() {
                thread::sleep(LOOK);
            }
            Ok(())
        }
    }
}

fn parse_all(text: &str) -> io::Result<Vec<Fault>> {
    text.split(';').map(parse).collect()
}

fn parse(text: &str) -> io::Result<Fault> {
    let wrong = || io::Error::other(format!("{VARIABLE} is not STEP[#N]:ACTION: {text}"));
    let (at, action) = text.split_once(':').ok_or_else(wrong)?;
    let (name, time) = at.split_once('#').unwrap_or((at, "1"));
    let step = Step::ALL.iter().map(|step| step.name()).find(|step| *step == name).ok_or_else(wrong)?;
    let action = match action.split_once('=').unwrap_or((action, "")) {
        ("kill", "") => Action::Signal(SIGKILL),
        ("fail", "") => Action::Fail,
        ("signal", "TERM") => Action::Signal(SIGTERM),
        ("signal", "INT") => Action::Signal(SIGINT),
        ("signal", "HUP") => Action::Signal(SIGHUP),
        ("hold", path) if !path.is_empty() => Action::Hold(path.into()),
        _ => return Err(wrong()),
    };
    Ok(Fault { step, time: time.parse().map_err(|_| wrong())?, action })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_faults_are_parsed_or_rejected() {
        let fault = |step, time| Fault { step, time, action: Action::Hold("/a".into()) };
        assert_eq!(parse_all("Thaw:hold=/a;Pivot#2:hold=/a").unwrap(), [fault("Thaw", 1), fault("Pivot", 2)]);
        for wrong in ["", "Thaw:kill;", "Thaw:kill;Pivot"] {
            parse_all(wrong).unwrap_err();
        }
    }

    #[test]
    fn faults_are_parsed_or_rejected() {
        let fault = |step, time, action| Fault { step, time, action };
        assert_eq!(parse("Pivot:kill").unwrap(), fault("Pivot", 1, Action::Signal(9)));
        assert_eq!(parse("JournalUpdate#3:fail").unwrap(), fault("JournalUpdate", 3, Action::Fail));
        assert_eq!(parse("Thaw:signal=HUP").unwrap(), fault("Thaw", 1, Action::Signal(1)));
        assert_eq!(parse("Thaw:hold=/a:b").unwrap(), fault("Thaw", 1, Action::Hold("/a:b".into())));
        for wrong in ["", "Pivot", "Nothing:kill", "Pivot#x:kill", "Pivot:kill=9", "Pivot:hold=", "Pivot:signal=KILL"] {
            parse(wrong).unwrap_err();
        }
    }
}
