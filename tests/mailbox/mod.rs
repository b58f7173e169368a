//! Receivers of the tests' mails: a mail server with its own certificate authority, a program in place of `sendmail`, a
//! parser.
#![allow(dead_code, reason = "every test binary compiles this and uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is test code")]

mod exim;

pub use exim::Exim;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

/// The library that fakes the time for programs.
pub const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

/// A mail server that ends when this is dropped.
pub struct Server {
    dir: tempfile::TempDir,
    child: Child,
    pub port: u16,
    pub mode: String,
}

impl Server {
    /// Starts one; its modes are in server.py.
    pub fn start(mode: &str) -> Server {
        Server::with(mode, "+0")
    }

    /// Starts one whose certificate expired a year ago.
    pub fn expired(mode: &str) -> Server {
        Server::with(mode, "-1y")
    }

    /// Its certificates are created at this time.
    fn with(mode: &str, time: &str) -> Server {
        let dir = tempfile::tempdir().unwrap();
        certificates(dir.path(), time);
        let mut child = Command::new("/usr/bin/python3")
            .arg(helper("server.py"))
            .arg(mode)
            .arg(dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().parse().unwrap_or_else(|_| panic!("the mail server did not start: {line:?}"));
        Server { dir, child, port, mode: mode.to_owned() }
    }

    /// The certificate of its authority.
    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// The session log of the server.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// The mails that it accepted.
    pub fn mails(&self) -> Vec<Mail> {
        (1..)
            .map(|n| self.dir.path().join(format!("{n}.eml")))
            .map_while(|path| std::fs::read(path).ok())
            .map(|bytes| parse(&bytes))
            .collect()
    }
}

impl Server {
    /// A server that does not answer any more; its authority is still known.
    pub fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn helper(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mailbox").join(name)
}

/// An authority, and a certificate for `localhost` that it issued.
fn certificates(dir: &Path, time: &str) {
    std::fs::write(dir.join("ext"), "subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n").unwrap();
    for words in [
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=lab",
        "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout leaf.key -out leaf.csr -subj /CN=localhost",
        "x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out leaf.pem -days 2 -extfile ext",
    ] {
        let output = Command::new("openssl")
            .env("LD_PRELOAD", FAKETIME)
            .env("FAKETIME", time)
            .args(words.split(' '))
            .current_dir(dir)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// A mail as parsed by another program.
#[derive(Debug)]
pub struct Mail(Value);

impl Mail {
    /// The only header field of this name.
    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        let all = self.0["headers"].as_array().unwrap();
        let found: Vec<_> = all.iter().filter(|pair| pair[0].as_str().unwrap().eq_ignore_ascii_case(name)).collect();
        assert_eq!(found.len(), 1, "{name}: {all:?}");
        found[0][1].as_str().unwrap()
    }

    /// Whether it has a header field of this name.
    pub fn has(&self, name: &str) -> bool {
        self.0["headers"].as_array().unwrap().iter().any(|pair| pair[0].as_str().unwrap().eq_ignore_ascii_case(name))
    }

    /// The text part, which must be the first.
    pub fn text(&self) -> &str {
        assert_eq!(self.0["parts"][0]["type"], "text/plain");
        self.0["parts"][0]["text"].as_str().unwrap()
    }

    /// The HTML part.
    pub fn html(&self) -> &str {
        assert_eq!(self.0["parts"][1]["type"], "text/html");
        self.0["parts"][1]["text"].as_str().unwrap()
    }
}

/// Parses a mail; panics if it has any defect.
#[track_caller]
pub fn parse(bytes: &[u8]) -> Mail {
    let mut child = Command::new("/usr/bin/python3")
        .arg(helper("parse.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let mail: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(mail["type"], "multipart/alternative");
    assert_eq!(
        (&mail["defects"], &mail["header_defects"]),
        (&serde_json::json!([]), &serde_json::json!([])),
        "{mail:#}"
    );
    assert_eq!(mail["parts"].as_array().unwrap().len(), 2);
    Mail(mail)
}
