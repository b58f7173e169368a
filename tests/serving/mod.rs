//! Runs the real program as a server: start, requests over plain sockets, measurements, and end.
#![allow(dead_code, reason = "every test binary compiles this and uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is test code")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::watched::Watched;

/// A running exporter; killed when dropped.
pub struct Exporter {
    child: Child,
    /// Its first output line, without `serving on `.
    pub listen: String,
    lock: Option<fs::File>,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Status line and headers.
    pub head: String,
    pub body: String,
}

impl Answer {
    /// The status code.
    pub fn status(&self) -> u16 {
        self.head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> &str {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(key, _)| *key == name).map_or("", |(_, value)| value)
    }
}

impl Exporter {
    /// Serves prepared state; `dir` is for configuration and state directory. The survey does not change, because its
    /// lock is held.
    pub fn of(watched: &Watched, dir: &Path) -> Exporter {
        let state = dir.join("state");
        watched.save(&state);
        let lock = fs::File::create(state.join("ledger.lock")).unwrap();
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
        let mut started = Exporter::start(dir, &["--listen", "127.0.0.1:0"]);
        started.lock = Some(lock);
        started
    }

    /// Starts it with a configuration in `dir` that names a state directory there.
    pub fn start(dir: &Path, words: &[&str]) -> Exporter {
        let config = write_config(dir, "");
        Exporter::spawn(program(&config).arg("exporter").args(words))
    }

    /// Starts this command.
    pub fn spawn(command: &mut Command) -> Exporter {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let listen =
            line.trim().strip_prefix("serving on ").unwrap_or_else(|| panic!("it printed {line:?}")).to_owned();
        Exporter { child, listen, lock: None }
    }

    /// The URL of a page.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.listen)
    }

    /// A new connection.
    pub fn connect(&self) -> TcpStream {
        TcpStream::connect(&self.listen).unwrap()
    }

    /// Requests a page.
    pub fn get(&self, path: &str) -> Answer {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
    }

    /// Sends this and reads to the end.
    pub fn ask(&self, request: &str) -> Answer {
        let mut socket = self.connect();
        socket.write_all(request.as_bytes()).unwrap();
        read_answer(socket)
    }

    /// Requests the metrics within the limit of one second. A busy machine may exceed the limit often, but not every
    /// time.
    #[track_caller]
    pub fn answers_in_time(&self) {
        let mut all = Vec::new();
        while all.len() < 20 {
            let began = Instant::now();
            self.answers();
            let took = began.elapsed();
            if took < Duration::from_secs(1) {
                return;
            }
            all.push(took);
        }
        panic!("it took {all:?}");
    }

    /// Requests the metrics, without a time limit.
    #[track_caller]
    pub fn answers(&self) {
        let answer = self.get("/metrics");
        assert_eq!(answer.status(), 200);
        assert!(answer.body.contains("\nkvmbackup_exporter_state_read_success 1\n"), "{}", answer.body);
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its peak memory in bytes.
    pub fn most_memory(&self) -> u64 {
        let status = fs::read_to_string(self.proc("status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    /// Its open file descriptors, and the number of sockets among them.
    pub fn descriptors(&self) -> (usize, usize) {
        let links: Vec<_> = fs::read_dir(self.proc("fd"))
            .unwrap()
            .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
            .collect();
        (links.len(), links.iter().filter(|link| link.to_string_lossy().starts_with("socket:")).count())
    }

    /// Its processor time, in seconds.
    pub fn processor_seconds(&self) -> f64 {
        let stat = fs::read_to_string(self.proc("stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        // proc_pid_stat(5): utime and stime, in units of 1/100 s.
        (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
    }

    fn proc(&self, name: &str) -> PathBuf {
        Path::new("/proc").join(self.pid().to_string()).join(name)
    }

    /// Sends a signal; returns the exit code, and the time until it ended.
    pub fn end(mut self, signal: rustix::process::Signal) -> (i32, Duration) {
        let began = Instant::now();
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).unwrap();
        let status = self.child.wait().unwrap();
        (status.code().unwrap_or_else(|| panic!("killed by {:?}", status.signal())), began.elapsed())
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads until the end.
pub fn read_answer(mut socket: impl Read) -> Answer {
    let mut bytes = Vec::new();
    socket.read_to_end(&mut bytes).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    Answer { head: head.to_owned(), body: body.to_owned() }
}

/// The program with this configuration.
pub fn program(config: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvmbackup"));
    command.arg("--config").arg(config).args(["--host", "desk"]).stdin(Stdio::null()).env_remove("KVMBACKUP_LOG");
    command
}

/// Writes a configuration whose libvirt does not exist, so that only the state directory is known; more keys of the
/// host.
pub fn write_config(dir: &Path, keys: &str) -> PathBuf {
    let config = dir.join("config.yml");
    let (backups, state) = (dir.join("backups"), dir.join("state"));
    let text = format!(
        "desk:\n  backupdir: {}\n  state_dir: {}\n  libvirt_uri: \"test://{}\"\n  domains: {{sample: {{day_of_week: daily}}}}\n{keys}",
        backups.display(),
        state.display(),
        dir.join("no-such-node.xml").display()
    );
    fs::write(&config, text).unwrap();
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    config
}
