//! `hooks/healthchecks` keeps its promises, against a server that accepts pings.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::thread::JoinHandle;

use crate::lab::{Ended, RUN_ID, hook, run, run_hook};

const SECRET: &str = "/ping/5f2c0d3e-secret";

#[test]
fn each_phase_sends_its_own_ping() {
    let pings = [
        ("pre-run", "running", "/start"),
        ("post-run", "ok", "/0"),
        ("post-run", "failed", "/1"),
        ("post-run", "", "/1"),
        ("on-failure", "failed", "/fail"),
        ("post-domain", "ok", "/log"),
    ];
    for (phase, status, path) in pings {
        let server = Server::start(200);
        let mut command = the_hook(&server, phase);
        command.env("KVMBACKUP_STATUS", status).env("KVMBACKUP_ERROR", "it \"broke\"\n\\n badly");
        run_hook(&mut command).assert_good();
        let ping = server.ping();
        assert_eq!(ping.line, format!("POST {SECRET}{path}?rid={RUN_ID} HTTP/1.1"), "{phase} {status}");
        assert!(ping.body.contains(phase) && ping.body.contains(r"it  broke   n badly"), "{}", ping.body);
        assert!(!ping.body.contains(SECRET) && ping.body.lines().count() == 1, "{}", ping.body);
    }
}

#[test]
fn address_may_come_from_a_file_or_the_environment() {
    for slash in ["", "/", "\nmore"] {
        let server = Server::start(200);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("{}{slash}", server.url())).unwrap();
        let mut command = hook("healthchecks", &[&format!("--url-file={}", file.path().display())]);
        run_hook(command.env("KVMBACKUP_PHASE", "pre-run")).assert_good();
        assert!(server.ping().line.starts_with(&format!("POST {SECRET}/start?")));
    }
    failed(&mut hook("healthchecks", &[]), "no valid URL");
    failed(&mut hook("healthchecks", &["--url-file=/nowhere"]), "cannot read /nowhere");
    failed(hook("healthchecks", &[]).env("HEALTHCHECKS_URL", "http://x/\"\noutput = \"/tmp/x"), "no valid URL");
}

#[test]
fn refused_ping_is_an_error_that_does_not_contain_the_address() {
    let server = Server::start(404);
    let ended = failed(&mut the_hook(&server, "pre-run"), "was not accepted");
    assert!(!ended.stderr.contains(SECRET), "{ended:?}");
    server.ping();
    let nobody = format!("http://127.0.0.1:1{SECRET}");
    let ended = failed(hook("healthchecks", &[]).env("HEALTHCHECKS_URL", nobody), "was not accepted");
    assert!(!ended.stderr.contains(SECRET), "{ended:?}");
}

#[test]
fn silent_server_times_out_and_the_address_stays_secret() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}{SECRET}", listener.local_addr().unwrap());
    let hook = std::thread::spawn(move || run_hook(hook("healthchecks", &[]).env("HEALTHCHECKS_URL", url)));
    let (connection, _) = listener.accept().unwrap();
    let processes = run("ps", &["-e", "-o", "args"]);
    assert!(processes.lines().any(|line| line.starts_with("curl ")) && !processes.contains(SECRET), "{processes}");
    // It ends although the connection stays open, because of the deadline.
    hook.join().unwrap().assert_failed("was not accepted");
    drop(connection);
}

#[test]
fn dry_run_sends_no_ping() {
    let mut command = hook("healthchecks", &[]);
    command.env("HEALTHCHECKS_URL", "http://127.0.0.1:1/").env("KVMBACKUP_DRY_RUN", "1");
    run_hook(&mut command).assert_good();
}

fn the_hook(server: &Server, phase: &str) -> Command {
    let mut command = hook("healthchecks", &[]);
    command.env("HEALTHCHECKS_URL", server.url()).env("KVMBACKUP_PHASE", phase);
    command
}

fn failed(command: &mut Command, words: &str) -> Ended {
    let ended = run_hook(command);
    ended.assert_failed(words);
    ended
}

/// Accepts one ping.
struct Server {
    address: std::net::SocketAddr,
    thread: JoinHandle<Ping>,
}

struct Ping {
    line: String,
    body: String,
}

impl Server {
    fn start(status: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            let (mut connection, _) = listener.accept().unwrap();
            let mut request = BufReader::new(connection.try_clone().unwrap());
            let mut head = Vec::new();
            loop {
                let mut line = String::new();
                request.read_line(&mut line).unwrap();
                if line.trim().is_empty() {
                    break;
                }
                head.push(line.trim().to_owned());
            }
            let length = head.iter().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
            let mut body = vec![0; length.parse().unwrap()];
            request.read_exact(&mut body).unwrap();
            write!(connection, "HTTP/1.1 {status} X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
            Ping { line: head.remove(0), body: String::from_utf8(body).unwrap() }
        });
        Server { address, thread }
    }

    fn url(&self) -> String {
        format!("http://{}{SECRET}", self.address)
    }

    fn ping(self) -> Ping {
        self.thread.join().unwrap()
    }
}
