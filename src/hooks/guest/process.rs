//! Owns: one hook's process in a guest, controlled through the files of `wrapper.sh`. Must not: have a deadline that the guest does
//! not enforce itself, because kvmbackup may be killed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::Agent;
use super::exec::{self, Done, Exec, Start};
use crate::hooks::{Call, Ended, Error, GRACE, MAX_OUTPUT, Ran};
use crate::sys::output::Output;

const WRAPPER: &str = include_str!("wrapper.sh");
/// The state of a session. One that was ready and has ended since is lost, not late. `$0` is the prefix here and below.
const STATE: &str = r#"if [ -e "$0.ready" ]; then echo ready; elif [ -e "$0.rc" ]; then echo ended; fi"#;
/// The input is opened for reading and writing, because that never waits for a reader.
const RELEASE: &str = r#"[ ! -e "$0.rc" ] || { echo dead; exit; }
[ ! -e "$0.expired" ] || { echo expired; exit; }
echo RELEASE 1<>"$0.in" && : >"$0.release" && echo kept"#;
/// The group, which is known a moment after the start, is ended as on this host.
const STOP: &str = r#"n=0
until [ -s "$0.group" ] || [ $n -ge 25 ]; do n=$((n + 1)); sleep 0.2 || sleep 1; done
group=$(cat "$0.group") && kill -TERM "-$group"
until [ -e "$0.rc" ] || [ $n -ge 25 ]; do n=$((n + 1)); sleep 0.2 || sleep 1; done
kill -KILL "-$group""#;
/// The status on a line, then the output.
const COLLECT: &str = r#"cat "$0.rc" 2>/dev/null || echo; cat "$0.out" 2>/dev/null; rm -f "$0".*"#;

/// How long the wrapper may take to end after its hook: it waits a moment for remaining processes.
const WRAP_UP: Duration = Duration::from_secs(10);

/// The state of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Not yet holding.
    Starting,
    /// It has said READY.
    Ready,
    /// It has ended without.
    Ended,
}

/// A hook in a guest.
pub(super) struct Process<'a> {
    agent: &'a dyn Agent,
    files: String,
    wrapper: Exec<'a>,
    started: Instant,
    /// Its deadline in seconds, enforced by `timeout` in the guest.
    all: u64,
}

impl<'a> Process<'a> {
    /// Starts it. `files` is a prefix that no other hook has; `hold` is zero for a command.
    pub(super) fn start(
        agent: &'a dyn Agent,
        files: String,
        call: &Call,
        all: Duration,
        hold: Duration,
    ) -> Result<Process<'a>, Error> {
        if call.argv.is_empty() {
            return Err(Error::Empty);
        }
        // GNU timeout takes 0 for "never".
        let all = whole_seconds(all).max(1);
        let (all_word, hold_word) = (all.to_string(), whole_seconds(hold).to_string());
        let mut arguments = vec![WRAPPER, "kvmbackup-hook", &files, &all_word, &hold_word];
        arguments.extend(call.argv.iter().map(String::as_str));
        let env: &BTreeMap<_, _> = &call.env;
        let started = Instant::now();
        let wrapper = Exec::start(agent, "start a hook", &Start { arguments, env: Some(env), ..Start::default() })?;
        Ok(Process { agent, files, wrapper, started, all })
    }

    /// Whether its wrapper has ended.
    pub(super) fn has_ended(&mut self) -> Result<bool, Error> {
        self.wrapper.done().map(|done| done.is_some())
    }

    /// When the guest must have ended it at the latest, including the wrapper.
    pub(super) fn end(&self) -> Instant {
        self.started + Duration::from_secs(self.all) + GRACE + WRAP_UP
    }

    pub(super) fn state(&self) -> Result<State, Error> {
        let state = exec::patiently(|| exec::output(self.agent, "query a session", STATE, &[&self.files], None))?;
        Ok(match state.as_slice() {
            b"ready\n" => State::Ready,
            b"ended\n" => State::Ended,
            _ => State::Starting,
        })
    }

    /// Releases a session. True: it had held until then. An agent may need a moment after a thaw.
    pub(super) fn release(&self) -> Result<bool, Error> {
        let held = exec::patiently(|| exec::output(self.agent, "release a session", RELEASE, &[&self.files], None))?;
        Ok(held == b"kept\n")
    }

    /// Waits until its wrapper has ended, or else ends it.
    pub(super) fn wait(&mut self, deadline: Instant) -> Result<Option<Ended>, Error> {
        match self.wrapper.wait(deadline)? {
            Some(_) => Ok(None),
            None => self.stop().map(|()| Some(Ended::TimedOut)),
        }
    }

    /// Ends it.
    pub(super) fn stop(&mut self) -> Result<(), Error> {
        exec::patiently(|| exec::script(self.agent, "stop a hook", STOP, &[&self.files], None))?;
        self.wrapper.wait(Instant::now() + WRAP_UP)?;
        Ok(())
    }

    /// How it ended. `forced`: by us.
    pub(super) fn finish(self, forced: Option<Ended>) -> Result<Ran, Error> {
        let action = "collect the result of a hook";
        let time = self.started.elapsed();
        let Done { output, .. } = exec::script(self.agent, action, COLLECT, &[&self.files], None)?;
        let (code, said) = split(&output);
        let wrong = || Error::Answer { action, answer: "its exit status is missing".to_owned() };
        let ended = match (forced, code) {
            (Some(forced), _) => forced,
            (None, None) => return Err(wrong()),
            // The exit status of timeout; busybox passes on that of the program.
            (None, Some(124 | 137 | 143)) if time >= Duration::from_secs(self.all) => Ended::TimedOut,
            // A shell's exit status for a signal.
            (None, Some(code @ 129..=192)) => Ended::Signal(code - 128),
            (None, Some(code)) => Ended::Exit(code),
        };
        let mut kept = Output::new("hook in the guest", MAX_OUTPUT);
        kept.push(said);
        Ok(Ran { ended, output: kept.take_text(), time })
    }
}

/// The status on the first line, and the rest.
fn split(collected: &[u8]) -> (Option<i32>, &[u8]) {
    let end = collected.iter().position(|byte| *byte == b'\n').unwrap_or(collected.len());
    let code = std::str::from_utf8(&collected[..end]).ok().and_then(|code| code.parse::<u8>().ok());
    (code.map(i32::from), collected.get(end + 1..).unwrap_or_default())
}

fn whole_seconds(time: Duration) -> u64 {
    time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0)).min(365 * 24 * 3600)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_rounded_up_and_bounded() {
        let year = 365 * 24 * 3600;
        let cases = [(Duration::ZERO, 0), (Duration::from_nanos(1), 1), (Duration::from_secs(7), 7)];
        for (time, seconds) in cases.into_iter().chain([(Duration::from_secs(year), year), (Duration::MAX, year)]) {
            assert_eq!(whole_seconds(time), seconds, "{time:?}");
        }
    }
}
