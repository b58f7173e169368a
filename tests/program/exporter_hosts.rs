//! The host names that the exporter answers to: none that a page of another web site can have.

use std::io::Write;
use std::net::TcpStream;

use crate::host;
use crate::serving::{self, Exporter};

#[test]
fn only_names_of_this_host_are_answered() {
    let dir = tempfile::tempdir().unwrap();
    let config =
        serving::write_config(dir.path(), "  metrics: {hosts: [mon.example.org, \"[2001:db8::1]\", 192.0.2.7]}\n");
    let exporter = Exporter::spawn(serving::program(&config).args(["exporter", "--listen", "127.0.0.1:0"]));
    let port = exporter.listen.rsplit(':').next().unwrap().to_owned();
    let ask = |path: &str, host: &str| exporter.ask(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    for path in ["/", "/metrics", "/-/healthy", "/-/ready", "/-/nonce", "/nowhere"] {
        for host in ["evil.example", "localhost.evil.example:80", "192.0.2.8", ""] {
            let answer = ask(path, host);
            assert_eq!(answer.status(), 421, "{path} of {host:?}");
            assert!(answer.body.contains("`metrics.hosts`") && !answer.body.contains("sample"), "{}", answer.body);
        }
    }
    // Loopback, the listen address, the host's section of the configuration, and the allowed names.
    for host in ["localhost", "127.0.0.1", "[::1]", "desk", "mon.example.org", "[2001:db8::1]", "192.0.2.7"] {
        for host in [host.to_owned(), format!("{host}:{port}")] {
            assert_eq!(ask("/-/healthy", &host).status(), 200, "{host}");
        }
    }
    assert_eq!(exporter.ask("GET /-/healthy HTTP/1.1\r\n\r\n").status(), 400, "no host");
    let twice = "GET /-/healthy HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n";
    assert_eq!(exporter.ask(twice).status(), 400);
    // The host of an absolute URI counts, not the Host header.
    let whole = "GET http://evil.example/metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
    assert_eq!(exporter.ask(whole).status(), 421);
    assert_eq!(exporter.ask("GET /-/healthy HTTP/1.0\r\n\r\n").status(), 200, "every browser sends the host");
}

#[test]
fn wildcard_listener_answers_to_every_address_of_the_host() {
    let dir = tempfile::tempdir().unwrap();
    for (listen, addresses) in [("0.0.0.0:0", &["127.0.0.1", "127.0.0.2"][..]), ("[::]:0", &["127.0.0.2", "[::1]"])] {
        let exporter = Exporter::start(dir.path(), &["--listen", listen]);
        let port = exporter.listen.rsplit(':').next().unwrap();
        for address in addresses {
            let url = format!("http://{address}:{port}/-/healthy");
            assert!(host::run("curl", &["--silent", "--fail", "--max-time", "5", &url]).contains("healthy"), "{url}");
        }
        let mut socket = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
        socket.write_all(b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n").unwrap();
        assert_eq!(serving::read_answer(socket).status(), 421);
    }
}
