//! The exporter seen by its clients, well-behaved and hostile: the real program over real sockets.

use crate::serving;
use crate::watched;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::serving::Exporter;
use chrono::Utc;
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};

const MOST_MEMORY: u64 = 64 << 20;

fn exporter(dir: &tempfile::TempDir) -> Exporter {
    Exporter::of(&watched::quiet(Utc::now()), dir.path())
}

#[test]
fn every_path_answers_as_documented() {
    let dir = tempfile::tempdir().unwrap();
    let exporter = exporter(&dir);
    for (path, status, content_type, words) in [
        (
            "/metrics",
            200,
            "text/plain; version=0.0.4; charset=utf-8",
            "kvmbackup_domain_last_success_timestamp_seconds",
        ),
        ("/metrics?name=x", 200, "text/plain; version=0.0.4; charset=utf-8", "kvmbackup_build_info"),
        ("/", 200, "text/html; charset=utf-8", "All 6 guests are backed up"),
        ("/-/healthy", 200, "text/plain; charset=utf-8", "healthy"),
        ("/-/ready", 200, "text/plain; charset=utf-8", "ready"),
        ("/../etc/passwd", 404, "text/plain; charset=utf-8", "not found"),
        ("/metrics/", 404, "text/plain; charset=utf-8", "not found"),
    ] {
        let answer = exporter.get(path);
        assert_eq!(answer.status(), status, "{path}");
        assert_eq!(answer.header("Content-Type"), content_type, "{path}");
        assert!(answer.body.contains(words), "{path}: {}", answer.body);
        assert_eq!(answer.header("Content-Length"), answer.body.len().to_string(), "{path}");
        assert_eq!(answer.header("Connection"), "close");
        assert_eq!(answer.header("Cache-Control"), "no-store");
        assert_eq!(answer.header("X-Content-Type-Options"), "nosniff");
        assert!(answer.header("Content-Security-Policy").starts_with("default-src 'none';"), "{path}");
        assert!(!answer.header("Content-Security-Policy").contains("unsafe"), "{path}");
        let head = exporter.ask(&format!("HEAD {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        assert_eq!((head.status(), head.body.as_str()), (status, ""), "{path}");
        // It contains the duration of the scrape, so the length may differ by a digit.
        let length: usize = head.header("Content-Length").parse().unwrap();
        assert!(length.abs_diff(answer.body.len()) < 32, "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "get"] {
        let answer = exporter.ask(&format!("{method} /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        assert_eq!((answer.status(), answer.header("Allow")), (405, "GET, HEAD"), "{method}");
    }
    for request in ["nonsense\r\n\r\n", "GET / HTTP/9\r\n\r\n", "GET metrics HTTP/1.0\r\n\r\n", "\x16\x03\x01\n\n"] {
        assert_eq!(exporter.ask(request).status(), 400, "{request:?}");
    }
    let long = format!("GET / HTTP/1.0\r\nA: {}\r\n\r\n", "a".repeat(9000));
    assert_eq!(exporter.ask(&long).status(), 431);
}

#[test]
fn curl_understands_the_exporter() {
    let dir = tempfile::tempdir().unwrap();
    let exporter = exporter(&dir);
    let curl = |words: &[&str]| {
        let output =
            Command::new("curl").args(["--silent", "--show-error", "--max-time", "5"]).args(words).output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(curl(&["--fail", &exporter.url("/metrics")]).contains("kvmbackup_domain_protected{domain=\"db1\"} 1"));
    assert!(curl(&["--head", "--http1.0", &exporter.url("/")]).starts_with("HTTP/1.0 200 OK\r\n"));
    assert!(curl(&["--fail", "--proxy", &exporter.url(""), "http://desk/-/ready"]).contains("ready"));
    let status = ["--output", "/dev/null", "--write-out", "%{http_code}"];
    assert_eq!(curl(&[&status[..], &["--data", "x=1", &exporter.url("/")]].concat()), "405");
}

#[test]
fn requests_may_arrive_in_pieces_and_in_sequence() {
    let dir = tempfile::tempdir().unwrap();
    let exporter = exporter(&dir);
    let mut socket = exporter.connect();
    for byte in b"GET /-/healthy HTTP/1.1\r\nHost: localhost\r\n\r\n" {
        socket.write_all(&[*byte]).unwrap();
        socket.flush().unwrap();
    }
    assert_eq!(serving::read_answer(socket).status(), 200);
    // If two requests arrive in one piece, the second is not answered: the connection closes.
    let two = "GET /-/healthy HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(2);
    let answer = exporter.ask(&two);
    assert_eq!((answer.status(), answer.body.matches("HTTP/1.1").count()), (200, 0));
}

/// Unusual but valid requests (RFC 9112), and hostile ones. No answer is lost by a reset, because everything after the
/// request is read before the connection is closed.
#[test]
fn unusual_requests_are_answered_and_invalid_ones_refused() {
    let dir = tempfile::tempdir().unwrap();
    let exporter = exporter(&dir);
    let body = "x".repeat(3 << 20);
    for (request, status) in [
        ("GET /-/healthy HTTP/1.0\r\n\r\n".to_owned(), 200),
        ("GET /-/healthy HTTP/1.1\nHOST:localhost:1 \n\nbody".to_owned(), 200),
        ("GET http://localhost?x/y HTTP/1.1\r\nHost: other\r\n\r\n".to_owned(), 200),
        ("GET http://user@localhost/ HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(), 421),
        ("GET /%3Cb%3E HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(), 404),
        ("GET /-/healthy HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n".to_owned(), 200),
        ("GET /-/healthy HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n".to_owned(), 200),
        (
            "GET /-/healthy HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
                .to_owned(),
            200,
        ),
        (format!("GET /-/ready HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len()), 200),
        (format!("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len()), 405),
        ("POST / HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n".to_owned(), 405),
        ("CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(), 400),
        ("OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(), 400),
        ("GET ../x HTTP/1.0\r\n\r\n".to_owned(), 400),
        ("GET /\r\n\r\n".to_owned(), 400),
        ("GET  / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1 x\r\nHost: localhost\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.0\r\nA: b\r\n folded\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.0\r\nA : b\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.0\r\nA: \0\r\n\r\n".to_owned(), 400),
        ("GET /\0 HTTP/1.0\r\n\r\n".to_owned(), 400),
        ("G\u{e9}T / HTTP/1.0\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost: \u{e9}\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(), 400),
        (format!("GET / HTTP/1.0\r\n{}\r\n", "A: b\r\n".repeat(101)), 431),
    ] {
        let answer = exporter.ask(&request);
        assert_eq!(answer.status(), status, "{}", &request[..request.len().min(200)]);
    }
    // A client that has finished sending still reads.
    let mut socket = exporter.connect();
    socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    socket.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(serving::read_answer(socket).status(), 200);
    let silent = exporter.connect();
    silent.shutdown(std::net::Shutdown::Write).unwrap();
    wait_until(|| matches!((&silent).read(&mut [0; 1]), Ok(0)));
}

#[test]
fn two_hundred_half_open_connections_block_no_client() {
    half_open(Duration::from_secs(8));
}

#[test]
#[ignore = "takes a minute"]
fn two_hundred_half_open_connections_for_a_minute_block_no_client() {
    half_open(Duration::from_secs(60));
}

/// Keeps 200 connections open, each with half a request, and reopens those that are closed; sends requests all the
/// while.
fn half_open(long: Duration) {
    const MANY: usize = 200;
    let dir = tempfile::tempdir().unwrap();
    let exporter = exporter(&dir);
    let open = || {
        let mut socket = exporter.connect();
        socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: ").unwrap();
        socket.set_nonblocking(true).unwrap();
        socket
    };
    let (over, closed) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut held: Vec<_> = (0..MANY).map(|_| open()).collect();
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                for socket in &mut held {
                    if !matches!(socket.read(&mut [0; 16]), Err(error) if error.kind() == ErrorKind::WouldBlock) {
                        closed.fetch_add(1, Ordering::Relaxed);
                        *socket = open();
                    }
                }
                thread::sleep(Duration::from_millis(20));
            }
        });
        let began = Instant::now();
        let (mut asked, mut most_held) = (0, 0);
        // Catch the panic, so that the thread ends even if the limit is exceeded.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let has_seen_enough =
                |asked, most_held| asked >= 20 && most_held >= MANY && closed.load(Ordering::Relaxed) >= MANY;
            while began.elapsed() < long || (!has_seen_enough(asked, most_held) && began.elapsed() < 10 * long) {
                exporter.answers_in_time();
                asked += 1;
                most_held = most_held.max(exporter.descriptors().1);
                thread::sleep(Duration::from_millis(200));
            }
        }));
        over.store(true, Ordering::Relaxed);
        outcome.unwrap();
        assert!(asked >= 20);
        assert!(most_held >= MANY, "only {most_held} of {MANY} were open at the same time");
    });
    assert!(closed.load(Ordering::Relaxed) >= MANY, "half a request is not waited for");
    assert!(exporter.most_memory() < MOST_MEMORY, "{} bytes", exporter.most_memory());
    drop(held);
    exporter.answers_in_time();
}

#[test]
fn more_connections_than_the_limit_close_the_oldest() {
    let dir = tempfile::tempdir().unwrap();
    let exporter = exporter(&dir);
    let mut held: Vec<_> = (0..600).map(|_| exporter.connect()).collect();
    exporter.answers_in_time();
    let (_, sockets) = exporter.descriptors();
    // 256 clients, and a few of its own: the listening socket, signals, libvirt's library.
    assert!(sockets <= 264, "{sockets} sockets");
    assert_eq!(held[0].read(&mut [0; 1]).unwrap_or(0), 0, "the oldest was closed");
    assert!(exporter.most_memory() < MOST_MEMORY);
}

/// Sets the limit of the program's file descriptors.
fn limit(exporter: &Exporter, descriptors: u64) {
    let pid = Pid::from_raw(exporter.pid().try_into().unwrap());
    prlimit(pid, Resource::Nofile, Rlimit { current: Some(descriptors), maximum: Some(4096) }).unwrap();
}

#[test]
fn exporter_survives_running_out_of_descriptors() {
    let dir = tempfile::tempdir().unwrap();
    let exporter = exporter(&dir);
    let (_, idle) = exporter.descriptors();
    // Clients that were accepted while descriptors were free.
    let mut early: Vec<_> = (0..60).map(|_| exporter.connect()).collect();
    exporter.answers_in_time();
    limit(&exporter, 32);
    exporter.answers_in_time();
    let late: Vec<_> = (0..60).map(|_| exporter.connect()).collect();
    for _ in 0..5 {
        exporter.answers_in_time();
        assert!(exporter.descriptors().0 <= 32);
    }
    assert_eq!(early[0].read(&mut [0; 1]).unwrap_or(0), 0, "the oldest was closed");
    drop((early, late));

    // No descriptor is left: it can only wait, and must neither die nor use a processor.
    wait_until(|| exporter.descriptors().1 == idle);
    limit(&exporter, 1);
    let before = exporter.processor_seconds();
    let mut patient: Vec<TcpStream> = (0..10).map(|_| exporter.connect()).collect();
    patient
        .iter_mut()
        .for_each(|socket| socket.write_all(b"GET /-/healthy HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap());
    patient[0].set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let error = patient[0].read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock, "no client can be accepted");
    let busy = exporter.processor_seconds() - before;
    assert!(busy < 0.5, "{busy} s of 2 s on a processor");
    limit(&exporter, 1024);
    exporter.answers_in_time();
    for socket in patient {
        assert_eq!(serving::read_answer(socket).status(), 200, "the waiting client is answered");
    }
    assert!(exporter.most_memory() < MOST_MEMORY);
}

fn wait_until(condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(20), "no answer arrived");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn header_of_64_mib_affects_only_its_sender() {
    let dir = tempfile::tempdir().unwrap();
    let exporter = exporter(&dir);
    thread::scope(|scope| {
        let senders: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut socket = exporter.connect();
                    socket.write_all(b"GET /metrics HTTP/1.1\r\nX: ").unwrap();
                    let chunk = vec![b'a'; 1 << 20];
                    // The connection may be closed before the end.
                    let sent = (0..64).take_while(|_| socket.write_all(&chunk).is_ok()).count();
                    let mut answer = Vec::new();
                    let _ = socket.read_to_end(&mut answer);
                    (sent, String::from_utf8(answer).unwrap())
                })
            })
            .collect();
        while senders.iter().any(|sender| !sender.is_finished()) {
            exporter.answers_in_time();
        }
        for sender in senders {
            let (sent, answer) = sender.join().unwrap();
            assert!(answer.starts_with("HTTP/1.1 431 ") || sent < 64, "{sent} MiB, {answer:?}");
        }
    });
    exporter.answers_in_time();
    assert!(exporter.most_memory() < MOST_MEMORY, "{} bytes", exporter.most_memory());
}

#[test]
fn client_that_never_reads_blocks_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let exporter = exporter(&dir);
    let asked: Vec<_> = (0..250)
        .map(|_| {
            let mut socket = exporter.connect();
            socket.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
            socket
        })
        .collect();
    exporter.answers();
    drop(asked);
    assert!(exporter.most_memory() < MOST_MEMORY, "{} bytes", exporter.most_memory());
}

#[test]
fn unreadable_state_is_reported_and_not_ready() {
    let dir = tempfile::tempdir().unwrap();
    let exporter = exporter(&dir);
    assert_eq!(exporter.get("/-/ready").status(), 200);
    // Replace it at one instant, and by a file: a concurrent survey would create a missing directory.
    fs::write(dir.path().join("elsewhere"), "").unwrap();
    let exchange = || {
        let [here, there] = ["state", "elsewhere"].map(|name| dir.path().join(name));
        rustix::fs::renameat_with(rustix::fs::CWD, here, rustix::fs::CWD, there, rustix::fs::RenameFlags::EXCHANGE)
            .unwrap();
    };
    exchange();
    let ready = exporter.get("/-/ready");
    assert_eq!(ready.status(), 503);
    assert!(!ready.body.contains(dir.path().to_str().unwrap()), "no path is revealed");
    assert_eq!(exporter.get("/").status(), 503);
    assert_eq!(exporter.get("/-/healthy").status(), 200);
    let metrics = exporter.get("/metrics");
    assert_eq!(metrics.status(), 200);
    assert!(metrics.body.contains("\nkvmbackup_exporter_state_read_success 0\n"), "{}", metrics.body);
    assert!(!metrics.body.contains("kvmbackup_domain_"));
    exchange();
    assert_eq!(exporter.get("/-/ready").status(), 200);
}

#[test]
fn signals_end_the_exporter_at_once() {
    for signal in [Signal::TERM, Signal::INT] {
        let dir = tempfile::tempdir().unwrap();
        let exporter = exporter(&dir);
        let _half = exporter.connect();
        exporter.answers_in_time();
        let (code, took) = exporter.end(signal);
        assert_eq!(code, 128 + signal.as_raw());
        assert!(took < Duration::from_secs(5), "it took {took:?}");
    }
}

#[test]
fn unix_socket_is_for_owner_and_group_and_is_removed_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listen = format!("unix:{}", path.display());
    // A socket that a killed exporter left.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let exporter = Exporter::start(dir.path(), &["--listen", &listen]);
    assert_eq!(exporter.listen, listen);
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o660);
    let mut socket = UnixStream::connect(&path).unwrap();
    socket.write_all(b"GET /-/healthy HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    assert_eq!(serving::read_answer(socket).status(), 200);
    let second =
        serving::program(&dir.path().join("config.yml")).args(["exporter", "--listen", &listen]).output().unwrap();
    let told = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(told.contains("another program uses it") && told.contains("hint: "), "{told}");
    assert_eq!(exporter.end(Signal::TERM).0, 143);
    assert!(!path.exists());
}

#[test]
fn listen_address_comes_from_the_command_line_then_the_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("configured");
    let config = serving::write_config(dir.path(), &format!("  metrics: {{listen: \"unix:{}\"}}\n", path.display()));
    let exporter = Exporter::spawn(serving::program(&config).arg("exporter"));
    assert_eq!(exporter.listen, format!("unix:{}", path.display()));
    drop(exporter);
    let exporter = Exporter::spawn(serving::program(&config).args(["exporter", "--listen", "127.0.0.1:0"]));
    assert!(exporter.listen.starts_with("127.0.0.1:") && !exporter.listen.ends_with(":0"), "{}", exporter.listen);
}

#[test]
fn address_that_others_can_reach_is_allowed_with_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    let config = serving::write_config(dir.path(), "");
    let log = dir.path().join("log");
    let mut command = serving::program(&config);
    command.args(["exporter", "--listen", "0.0.0.0:0"]).stderr(fs::File::create(&log).unwrap());
    let exporter = Exporter::spawn(&mut command);
    assert!(fs::read_to_string(&log).unwrap().contains("reverse proxy"));
    drop(exporter);
    command.args(["-q"]);
    let wrong = serving::program(&config).args(["exporter", "--listen", "9763"]).output().unwrap();
    assert_eq!(wrong.status.code(), Some(2));
}
