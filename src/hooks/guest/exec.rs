//! Runs one process in a guest with `guest-exec` and `guest-exec-status` of the QEMU guest agent
//! (<https://www.qemu.org/docs/master/interop/qemu-ga-ref.html>). Must not trust the agent's answers, because the guest
//! may be hostile.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::Agent;
use crate::hooks::Error;

/// How long an agent may fail to report a process that it has started before this is an error; it also serves others.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time limit for one of kvmbackup's own small scripts.
const SCRIPT: Duration = Duration::from_secs(30);
/// Maximum number of base64 characters in an answer: slightly more than an artifact of 1 MiB.
const MAX_DATA: usize = 2 << 20;

/// A process to start in a guest.
#[derive(Default)]
pub(super) struct Start<'a> {
    /// The shell's arguments after `-c`.
    pub arguments: Vec<&'a str>,
    /// Its environment; `None` means the agent's.
    pub env: Option<&'a BTreeMap<String, String>>,
    /// Its standard input.
    pub input: Option<&'a [u8]>,
    /// Whether its output is captured.
    pub capture: bool,
}

/// A process of a guest.
pub(super) struct Exec<'a> {
    agent: &'a dyn Agent,
    action: &'static str,
    pid: i64,
    failing: Option<Instant>,
}

/// A process of a guest that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Done {
    /// Its exit status; `None` if a signal ended it.
    pub code: Option<i64>,
    /// Its standard output.
    pub output: Vec<u8>,
}

impl<'a> Exec<'a> {
    /// Starts `/bin/sh -c` with these arguments. `action` is for the error, as a verb phrase.
    pub(super) fn start(agent: &'a dyn Agent, action: &'static str, start: &Start<'_>) -> Result<Exec<'a>, Error> {
        let arguments: Vec<_> = ["-c"].iter().chain(&start.arguments).collect();
        let mut request = json!({ "path": "/bin/sh", "arg": arguments, "capture-output": start.capture });
        if let Some(env) = start.env {
            request["env"] = env.iter().map(|(key, value)| format!("{key}={value}")).collect();
        }
        if let Some(input) = start.input {
            request["input-data"] = BASE64.encode(input).into();
        }
        let request = json!({ "execute": "guest-exec", "arguments": request });
        let answer = agent.command(&request).map_err(|source| Error::Agent { action, source })?;
        let pid = answer.get("pid").and_then(Value::as_i64).ok_or_else(|| wrong(action, &answer))?;
        Ok(Exec { agent, action, pid, failing: None })
    }

    /// The result, if it has ended.
    pub(super) fn done(&mut self) -> Result<Option<Done>, Error> {
        let request = json!({ "execute": "guest-exec-status", "arguments": { "pid": self.pid } });
        let answer = match self.agent.command(&request) {
            Ok(answer) => answer,
            Err(error) if self.failing.get_or_insert_with(Instant::now).elapsed() < PATIENCE => {
                tracing::debug!("the guest agent does not report process {}: {error}", self.pid);
                return Ok(None);
            }
            Err(source) => return Err(Error::Agent { action: self.action, source }),
        };
        self.failing = None;
        match answer.get("exited").and_then(Value::as_bool) {
            Some(false) => Ok(None),
            Some(true) => read(&answer).map(Some).ok_or_else(|| wrong(self.action, &answer)),
            None => Err(wrong(self.action, &answer)),
        }
    }

    /// Waits until it has ended; `None` if it has not by the deadline.
    pub(super) fn wait(&mut self, deadline: Instant) -> Result<Option<Done>, Error> {
        let mut pace = Pace::new();
        loop {
            if let Some(done) = self.done()? {
                return Ok(Some(done));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            pace.wait();
        }
    }
}

/// Runs one of kvmbackup's own small scripts. `arguments` are `$0` and the following.
pub(super) fn script(
    agent: &dyn Agent,
    action: &'static str,
    script: &str,
    arguments: &[&str],
    input: Option<&[u8]>,
) -> Result<Done, Error> {
    let arguments = [&[script], arguments].concat();
    let start = Start { arguments, input, capture: true, ..Start::default() };
    let done = Exec::start(agent, action, &start)?.wait(Instant::now() + SCRIPT)?;
    done.ok_or_else(|| Error::Answer { action, answer: "it is still running".to_owned() })
}

/// The output of a [`script`] that must succeed.
pub(super) fn output(
    agent: &dyn Agent,
    action: &'static str,
    text: &str,
    arguments: &[&str],
    input: Option<&[u8]>,
) -> Result<Vec<u8>, Error> {
    match script(agent, action, text, arguments, input)? {
        Done { code: Some(0), output } => Ok(output),
        Done { code, .. } => Err(Error::Answer { action, answer: format!("it failed with status {code:?}") }),
    }
}

/// Retries for a while. Only for actions that may be repeated, with an agent that worked a moment ago.
pub(super) fn patiently<T>(mut ask: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    let started = Instant::now();
    let mut pace = Pace::new();
    loop {
        match ask() {
            Err(error) if started.elapsed() < PATIENCE => tracing::debug!("{error}"),
            answer => return answer,
        }
        pace.wait();
    }
}

fn read(answer: &Value) -> Option<Done> {
    let code = match answer.get("exitcode") {
        Some(code) => Some(code.as_i64()?),
        None => None,
    };
    let output = match answer.get("out-data") {
        Some(data) => BASE64.decode(data.as_str().filter(|data| data.len() <= MAX_DATA)?).ok()?,
        None => Vec::new(),
    };
    let whole = answer.get("out-truncated").and_then(Value::as_bool) != Some(true);
    whole.then_some(Done { code, output })
}

fn wrong(action: &'static str, answer: &Value) -> Error {
    let answer = answer.to_string().chars().take(200).map(|c| if c.is_control() { ' ' } else { c }).collect();
    Error::Answer { action, answer }
}

/// The interval between queries: short at first, because most scripts take almost no time.
pub(super) struct Pace(Duration);

impl Pace {
    pub(super) fn new() -> Pace {
        Pace(Duration::from_millis(25))
    }

    pub(super) fn wait(&mut self) {
        thread::sleep(self.0);
        self.0 = (self.0 * 2).min(Duration::from_millis(500));
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Reports a process that has ended, after this many failures.
    struct Failing(std::sync::Mutex<u32>);

    impl Agent for Failing {
        fn command(&self, _: &Value) -> Result<Value, Box<dyn std::error::Error + Send + Sync>> {
            let mut left = self.0.lock().unwrap();
            if *left == 0 {
                return Ok(json!({ "exited": true, "exitcode": 3 }));
            }
            *left -= 1;
            Err("no answer".into())
        }
    }

    #[test]
    fn agent_is_queried_again_after_transient_failures() {
        let agent = Failing(std::sync::Mutex::new(2));
        let mut exec = Exec { agent: &agent, action: "test", pid: 1, failing: None };
        assert_eq!(exec.done().unwrap(), None);
        let done = exec.wait(Instant::now() + SCRIPT).unwrap();
        assert_eq!(done, Some(Done { code: Some(3), output: Vec::new() }));
        let asked = Cell::new(0);
        let answer = patiently(|| {
            asked.set(asked.get() + 1);
            if asked.get() < 3 { Err(wrong("test", &Value::Null)) } else { Ok(asked.get()) }
        });
        assert_eq!(answer.unwrap(), 3);
    }

    #[test]
    fn agent_that_keeps_failing_is_an_error() {
        let agent = Failing(std::sync::Mutex::new(9));
        let failing = Instant::now().checked_sub(PATIENCE);
        assert!(failing.is_some(), "the host must have been up for longer");
        let mut exec = Exec { agent: &agent, action: "test", pid: 1, failing };
        assert!(matches!(exec.done(), Err(Error::Agent { .. })));
    }

    #[test]
    fn queries_slow_down_to_a_limit() {
        let mut pace = Pace::new();
        let began = Instant::now();
        let mut steps = Vec::new();
        for _ in 0..6 {
            steps.push(pace.0.as_millis());
            pace.wait();
        }
        assert_eq!((steps.as_slice(), pace.0.as_millis()), (&[25, 50, 100, 200, 400, 500][..], 500));
        assert!(began.elapsed() >= Duration::from_millis(1275));
    }
}
