//! An S3 server on the loopback interface, for tests: moto, which checks signatures and fails on request.
#![allow(dead_code, reason = "every test binary compiles this and uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is test code")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

pub const BUCKET: &str = "backup";
pub const KEY: &str = "test-key";
pub const SECRET: &str = "kb-secret-of-the-bucket";

/// A server with one empty bucket. It ends when it is dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    pub port: u16,
    scheme: &'static str,
}

impl Server {
    pub fn start() -> Server {
        Server::with("http", &[])
    }

    /// With TLS; the files contain its certificate and private key.
    pub fn with_tls(certificate: &Path, key: &Path) -> Server {
        Server::with("https", &[certificate, key])
    }

    fn with(scheme: &'static str, files: &[&Path]) -> Server {
        let mut command = Command::new(python());
        command.arg(root().join("tests/bucket/server.py")).args([BUCKET, KEY, SECRET]).args(files);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().parse().unwrap_or_else(|_| panic!("the S3 server did not start"));
        Server { child, port, scheme }
    }

    /// The URL of a repository in the bucket.
    pub fn url(&self) -> String {
        let host = if self.scheme == "https" { "localhost" } else { "127.0.0.1" };
        format!("s3:{}://{host}:{}/{BUCKET}/some/prefix", self.scheme, self.port)
    }

    /// Makes the next `count` requests with this method, for names that contain `name`, fail; see server.py.
    pub fn fail(&self, method: &str, name: &str, how: &str, count: u32) {
        self.ask(&format!("/_fault?method={method}&name={name}&how={how}&count={count}"));
    }

    /// The number of requests so far.
    pub fn seen(&self) -> u64 {
        self.ask("/_seen").parse().unwrap()
    }

    fn ask(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    /// Ends the server; its port refuses connections from then on.
    pub fn end(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The Python with moto; installed by the first test that needs it, if `tests/lab/install` did not.
pub fn python() -> PathBuf {
    let output = Command::new(root().join("tests/lab/install-moto")).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}
