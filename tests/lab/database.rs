//! What the database servers have in common: their processes, an image of their files as a snapshot sees them, and
//! writers. The servers themselves are in `database_*.rs`.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::{DEADLINE, run, try_run, wait_until};

/// A server's process, which dies with the test's thread, or when dropped.
pub(super) struct Server(Child);

impl Server {
    /// Starts a server and writes its output to `log`. `setpriv` gets `privileges`.
    pub fn start(privileges: &[&str], program: &str, arguments: &[&str], log: &Path) -> Self {
        let file = std::fs::File::create(log).expect("cannot create a log");
        let mut command = Command::new("setpriv");
        command.args(privileges).args(["--pdeathsig", "KILL", program]).args(arguments);
        command.stdin(Stdio::null()).stdout(file.try_clone().expect("a file has descriptors")).stderr(file);
        Server(command.spawn().unwrap_or_else(|error| panic!("cannot run {program}: {error}")))
    }

    /// Waits until `up` returns true; panics with the log if the server ends before that.
    pub fn wait_up(&mut self, log: &Path, mut up: impl FnMut() -> bool) {
        wait_until(DEADLINE, &format!("the server of {}", log.display()), || {
            if let Some(status) = self.0.try_wait().expect("a child has a status") {
                panic!("the server ended with {status}: {}", std::fs::read_to_string(log).unwrap_or_default());
            }
            up()
        });
    }

    /// Copies a directory while neither the server nor its children run, as a snapshot of frozen file systems would.
    pub fn image(&self, from: &Path, to: &Path) {
        self.signal(Signal::STOP);
        let copied = try_run("cp", &[Path::new("-a"), from, to]);
        self.signal(Signal::CONT);
        assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
    }

    /// Kills the server and its children at once, like a power loss.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.0.wait().expect("a child can be waited for");
    }

    fn signal(&self, signal: Signal) {
        send(self.0.id(), signal);
        // A stopped or dead process starts no new ones.
        let children = try_run("pgrep", &["--parent", &self.0.id().to_string()]);
        for child in String::from_utf8_lossy(&children.stdout).lines() {
            send(child.parse().expect("pgrep prints numbers"), signal);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Sends a signal to a process, if it exists.
pub(super) fn send(process: u32, signal: Signal) {
    let pid = i32::try_from(process).ok().and_then(Pid::from_raw).expect("a process has a number");
    let _ = kill_process(pid, signal);
}

/// A client that makes a server run one statement after the other, each after the previous one was acknowledged.
pub struct Writer {
    acknowledged: Arc<AtomicU64>,
    /// In milliseconds.
    longest: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    client: u32,
}

impl Writer {
    /// Starts one. `client` reads statements from its input and prints one line for each statement that `statement`
    /// creates from a number, starting at 1.
    pub fn start(mut client: Command, statement: impl Fn(u64) -> String + Send + 'static) -> Self {
        let mut child = client.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("cannot run the client");
        let id = child.id();
        let acknowledged = Arc::new(AtomicU64::new(0));
        let longest = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (acknowledged, longest, stop) = (acknowledged.clone(), longest.clone(), stop.clone());
            move || {
                let mut input = child.stdin.take().expect("the client has an input");
                let mut answers = BufReader::new(child.stdout.take().expect("the client has an output")).lines();
                let mut number = 0;
                while !stop.load(Ordering::SeqCst) {
                    number += 1;
                    let asked = Instant::now();
                    if writeln!(input, "{}", statement(number)).is_err() || answers.next().is_none() {
                        break;
                    }
                    acknowledged.store(number, Ordering::SeqCst);
                    longest.fetch_max(asked.elapsed().as_millis() as u64, Ordering::SeqCst);
                    // Frequent enough to be seen during any lock, without loading the machine.
                    std::thread::sleep(Duration::from_millis(2));
                }
                drop(input);
                let _ = child.wait();
            }
        });
        let writer = Writer { acknowledged, longest, stop, thread: Some(thread), client: id };
        writer.assert_goes_on();
        writer
    }

    /// Number of acknowledged statements.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::SeqCst)
    }

    /// The longest time that a statement waited for its answer since the previous call, in milliseconds.
    pub fn longest_wait(&self) -> u64 {
        self.longest.swap(0, Ordering::SeqCst)
    }

    /// Panics unless further statements are acknowledged soon. Returns how long that took.
    #[track_caller]
    pub fn assert_goes_on(&self) {
        let before = self.acknowledged();
        wait_until(DEADLINE, "the writer to go on", || self.acknowledged() > before + 1);
    }

    /// Panics if statements are acknowledged during a time that is long enough for many. Returns the number of
    /// acknowledged ones.
    #[track_caller]
    pub fn assert_stands_still(&self) -> u64 {
        let before = self.acknowledged();
        std::thread::sleep(Duration::from_millis(350));
        let after = self.acknowledged();
        // One answer may have been in transit when the lock was acquired, however late this thread reads it, but never
        // a second.
        assert!(after <= before + 1, "writes were acknowledged while the lock was held: {before}, then {after}");
        after
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        send(self.client, Signal::TERM);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// A directory of one server.
pub(super) fn folder() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("d").tempdir().expect("cannot create the server's directory")
}

/// Runs a client's command; returns its output, or the error text.
pub(super) fn answer(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = try_run(program, arguments);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// A path as an argument.
pub(super) fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}

/// Gives a new directory to the user `postgres`.
pub(super) fn give_to_postgres(folder: &Path) {
    run("chown", &["postgres", text(folder)]);
}
