//! Runs the shipped hooks in `hooks/` as kvmbackup does, by the contract in `hooks/README.md`.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use rustix::process::Signal;

use super::database::send;
use super::{DEADLINE, wait_until};

/// The run that is passed to hooks.
pub const RUN_ID: &str = "6ecd4f0f-6d9a-4d3b-8f0e-0d5f4f5d7f3a";

/// Time limit for the processes that a hook has started to end after the hook.
const END_DEADLINE: Duration = Duration::from_secs(60);

/// The path of a hook below `hooks/`.
pub fn hook_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("hooks").join(name)
}

/// A shipped hook, with only the environment that the contract defines.
pub fn hook(name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(hook_path(name));
    command.args(arguments).current_dir("/").env_clear();
    command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    command.envs([("LANG", "C.UTF-8"), ("HOME", "/root"), ("KVMBACKUP_API", "1"), ("KVMBACKUP_TIMEOUT", "120")]);
    command.envs([("KVMBACKUP_RUN_ID", RUN_ID), ("KVMBACKUP_DOMAIN", "db1"), ("KVMBACKUP_DRY_RUN", "0")]);
    command
}

/// A way to end a session that has its lock.
pub type End = fn(Session) -> Ended;

/// All of them, with the session's exit code; none: it was killed.
pub const ENDS: [(End, Option<i32>); 4] =
    [(Session::release, Some(0)), (Session::abandon, Some(0)), (Session::terminate, Some(143)), (Session::kill, None)];

/// The result of a hook.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// Its output, except for the lines up to READY.
    pub stdout: String,
    /// Error output of the hook and its children.
    pub stderr: String,
}

impl Ended {
    /// Panics unless it exited with 0.
    #[track_caller]
    pub fn assert_good(&self) {
        assert!(self.status.success(), "{self:?}");
    }

    /// Panics unless it ended by itself with an error and printed `words`.
    #[track_caller]
    pub fn assert_failed(&self, words: &str) {
        assert!(self.status.code().is_some_and(|code| code != 0 && code != 75), "{self:?}");
        assert!(self.stderr.contains(words), "{words:?} is not in {self:?}");
    }
}

/// Runs a hook without input until it ends.
pub fn run_hook(command: &mut Command) -> Ended {
    Session::spawn(command.stdin(Stdio::null())).end()
}

/// A session hook that was started.
pub struct Session {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    stderr: Receiver<String>,
}

impl Session {
    /// Starts a session.
    pub fn start(mut command: Command) -> Self {
        Session::spawn(command.stdin(Stdio::piped()))
    }

    fn spawn(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("cannot run the hook");
        let (sender, lines) = channel();
        let output = BufReader::new(child.stdout.take().expect("its output is a pipe"));
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let (sender, stderr) = channel();
        let mut errors = child.stderr.take().expect("its error output is a pipe");
        std::thread::spawn(move || {
            let mut text = Vec::new();
            errors.read_to_end(&mut text).expect("a pipe can be read");
            sender.send(String::from_utf8_lossy(&text).into_owned())
        });
        Session { input: child.stdin.take(), child, lines, stderr }
    }

    /// Starts a session and waits until it is ready.
    pub fn held(command: Command) -> Self {
        let mut session = Session::start(command);
        session.wait_ready();
        session
    }

    /// Waits for READY; panics when the session ends before.
    pub fn wait_ready(&mut self) {
        loop {
            match self.lines.recv_timeout(DEADLINE) {
                Ok(line) if line == "READY" => return,
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => panic!("the session was not ready in time"),
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("the session ended before it was ready: {:?}", self.end())
                }
            }
        }
    }

    /// The script's process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Tells the session to release, and waits for its end.
    pub fn release(mut self) -> Ended {
        let mut input = self.input.take().expect("it was not released before");
        // The session may have died; its exit status says so.
        let _ = input.write_all(b"RELEASE\n");
        // As kvmbackup does: nothing more is sent.
        drop(input);
        self.end()
    }

    /// Tells the session to release in two parts, more than the hooks' second apart, and sends nothing more: the word
    /// alone must end it.
    pub fn release_in_parts(mut self) -> Ended {
        let mut input = self.input.take().expect("it was not released before");
        input.write_all(b"REL").expect("the session reads its input");
        std::thread::sleep(Duration::from_millis(2500));
        input.write_all(b"EASE\n").expect("the session reads its input");
        let ended = self.end();
        drop(input);
        ended
    }

    /// Closes the session's input, as a dying kvmbackup does, and waits for its end.
    pub fn abandon(mut self) -> Ended {
        self.input = None;
        self.end()
    }

    /// Kills the session, but none of its children, and waits for their end: they still have its error output open.
    pub fn kill(mut self) -> Ended {
        send(self.child.id(), Signal::KILL);
        self.end()
    }

    /// Stops the session with a signal, and waits for its end.
    pub fn terminate(mut self) -> Ended {
        send(self.child.id(), Signal::TERM);
        self.end()
    }

    /// Waits for the end of the session and of every process that it has started.
    pub fn end(&mut self) -> Ended {
        let mut status = None;
        // PostgreSQL's archiver, which a session may wait for, checks by itself only once a minute.
        wait_until(3 * DEADLINE, "the hook to end", || {
            status = self.child.try_wait().expect("a child has a status");
            status.is_some()
        });
        let stderr = self.stderr.recv_timeout(END_DEADLINE).expect("processes of the hook are still running");
        let stdout = self.lines.iter().map(|line| line + "\n").collect();
        Ended { status: status.expect("the session was not waited for before"), stdout, stderr }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
