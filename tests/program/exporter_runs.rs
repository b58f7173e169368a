//! The exporter and runs of the same host: what is served during a run, and its effects on the run.

use crate::host;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::host::Host;

/// A host whose runs serve on a socket, and whose hook before the run sends a request there.
fn host() -> Host {
    let host = Host::new(&["a", "b"]);
    let (socket, answer) = (host.path("s"), host.path("answer"));
    let hook = format!(
        "{{name: ask, phase: pre-run, command: [/usr/bin/curl, --silent, --fail, --unix-socket, {}, --output, {}, \"http://x/metrics\"]}}",
        socket.display(),
        answer.display()
    );
    let keys = format!("metrics: {{listen: \"unix:{}\"}}\nhooks: [{hook}]", socket.display());
    host.configure(&keys, "{\"*\": {day_of_week: daily}}");
    host
}

fn get(host: &Host, path: &str) -> String {
    let mut socket = UnixStream::connect(host.path("s")).unwrap();
    socket.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).unwrap();
    text
}

/// An exporter of the host; killed when dropped.
struct Serving(Child);

impl Serving {
    fn start(host: &Host) -> Serving {
        let config = host.path("config.yml");
        let mut command = host.command(env!("CARGO_BIN_EXE_kvmbackup"));
        command.args(["exporter", "--host", host::NAME, "--config"]).arg(config).stdout(Stdio::piped());
        let mut serving = Serving(command.spawn().unwrap());
        let mut line = String::new();
        BufReader::new(serving.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("serving on "), "{line}");
        serving
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn run_serves_only_while_it_is_in_progress() {
    let host = host();
    host.run("backup").ends(0);
    let answer = fs::read_to_string(host.path("answer")).unwrap();
    assert!(answer.contains("kvmbackup_job_running{backup_job=\"desk\"} 1\n"), "{answer}");
    assert!(answer.contains("kvmbackup_exporter_state_read_success 1\n"));
    assert!(!host.path("s").exists());
}

#[test]
fn run_accepts_an_exporter_that_serves_already() {
    let host = host();
    let _serving = Serving::start(&host);
    // A survey of the exporter that started before the run and ended after it would show the earlier state.
    wait_for("its first look", || host.path("state/survey.json").exists());
    let ran = host.run("backup").ends(0);
    assert_eq!(ran.err, "");
    let answer = fs::read_to_string(host.path("answer")).unwrap();
    assert!(
        answer.contains("kvmbackup_job_running{backup_job=\"desk\"} 1\n"),
        "the exporter reports the run: {answer}"
    );
    let after = get(&host, "/metrics");
    assert!(after.contains("kvmbackup_job_running{backup_job=\"desk\"} 0\n"), "{after}");
    assert!(get(&host, "/").contains("<h1>All 2 guests are backed up</h1>"));
}

#[test]
fn exporter_takes_surveys_by_itself() {
    let host = host();
    host.configure(&format!("metrics: {{listen: \"unix:{}\"}}", host.path("s").display()), "{a: {day_of_week: daily}}");
    fs::create_dir(host.path("backups")).unwrap();
    let _serving = Serving::start(&host);
    wait_for("the survey", || get(&host, "/metrics").contains("kvmbackup_domain_protected{domain=\"b\"} 0\n"));
    let metrics = get(&host, "/metrics");
    assert!(metrics.contains("kvmbackup_domain_protected{domain=\"a\"} 1\n"), "{metrics}");
    assert!(
        metrics.contains("kvmbackup_config_load_success 1\n") && metrics.contains("kvmbackup_survey_libvirt_up 1\n")
    );
    let page = get(&host, "/");
    assert!(
        page.contains("<h1>No backup has run yet</h1>") && page.contains("1 guest is not in the configuration"),
        "{page}"
    );
}

#[test]
fn socket_of_another_program_is_7_and_affects_no_backup() {
    let host = host();
    host.configure(
        &format!("metrics: {{listen: \"unix:{}\"}}", host.path("s").display()),
        "{\"*\": {day_of_week: daily}}",
    );
    let _other = UnixListener::bind(host.path("s")).unwrap();
    let ran = host.run("backup").ends(7);
    assert!(ran.err.contains("cannot listen on") && ran.err.contains("hint: "), "{}", ran.err);
    assert!(!host.archives("a").is_empty() && !host.archives("b").is_empty(), "the backups exist");
    fs::remove_file(host.image("a")).unwrap();
    host.run("backup --force").ends(1);
}

/// A host whose runs serve on a free port of loopback, and that port.
fn on_a_port() -> (Host, u16) {
    let host = Host::new(&["a"]);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    serve_at(&host, &format!("127.0.0.1:{port}"));
    (host, port)
}

fn serve_at(host: &Host, listen: &str) {
    host.configure(&format!("metrics: {{listen: \"{listen}\"}}"), "{\"*\": {day_of_week: daily}}");
}

#[test]
fn exporter_of_the_same_state_directory_is_recognized_by_any_form_of_its_address() {
    let (host, port) = on_a_port();
    serve_at(&host, &format!("0.0.0.0:{port}"));
    let _serving = Serving::start(&host);
    for address in ["127.0.0.1", "127.0.0.2", "0.0.0.0", "localhost"] {
        serve_at(&host, &format!("{address}:{port}"));
        assert_eq!(host.run("backup --force").ends(0).err, "", "{address}");
        assert!(!host.path("state/exporter.nonce").exists());
    }
}

#[test]
fn exporter_of_another_state_directory_is_not_recognized() {
    let (host, port) = on_a_port();
    let other = Host::new(&["a"]);
    serve_at(&other, &format!("127.0.0.1:{port}"));
    let _serving = Serving::start(&other);
    let ran = host.run("backup").ends(7);
    assert!(ran.err.contains("another program uses it") && ran.err.contains("hint: "), "{}", ran.err);
}

/// Another user knows the answers of an exporter, and can query the real one. An answer is valid only for the
/// exporter's own address.
#[test]
fn relayed_answers_of_an_exporter_are_not_recognized() {
    let (host, port) = on_a_port();
    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    serve_at(&host, &elsewhere.to_string());
    let _serving = Serving::start(&host);
    serve_at(&host, &format!("127.0.0.1:{port}"));
    let other = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let (told, answers) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for peer in other.incoming() {
            let (mut peer, mut truth) = (peer.unwrap(), TcpStream::connect(elsewhere).unwrap());
            let mut request = [0; 1024];
            let length = peer.read(&mut request).unwrap();
            truth.write_all(&request[..length]).unwrap();
            let mut answer = String::new();
            truth.read_to_string(&mut answer).unwrap();
            peer.write_all(answer.as_bytes()).unwrap();
            told.send(answer).unwrap();
        }
    });
    let ran = host.run("backup").ends(7);
    assert!(ran.err.contains("another program uses it"), "{}", ran.err);
    assert!(answers.recv().unwrap().starts_with("HTTP/1.1 200 OK"), "the real one answers, for its own address");
    assert!(!host.path("state/exporter.nonce").exists());
}

#[test]
fn other_program_that_answers_healthy_is_not_recognized() {
    let (host, port) = on_a_port();
    let other = TcpListener::bind(("127.0.0.1", port)).unwrap();
    std::thread::spawn(move || {
        for mut peer in other.incoming().map(Result::unwrap) {
            assert!(peer.read(&mut [0; 1024]).unwrap() > 0);
            peer.write_all(b"HTTP/1.1 200 OK\r\n\r\nkvmbackup is healthy\n").unwrap();
        }
    });
    let ran = host.run("backup").ends(7);
    assert!(ran.err.contains("another program uses it"), "{}", ran.err);
    assert_eq!(host.archives("a").len(), 1, "the backup is made anyway");
}
