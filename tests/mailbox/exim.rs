//! A mail transport agent of the host, with its own configuration and spool: users, an alias, and a port.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{Mail, parse};

const PROGRAM: &str = "/usr/sbin/exim4";
const USER: &str = "Debian-exim";

/// The agent; its server ends when this is dropped.
pub struct Exim {
    dir: tempfile::TempDir,
    server: Child,
    pub port: u16,
}

impl Exim {
    /// Starts one that knows the users `root` and `ops` of example.org, and the alias `team` of root. It answers this
    /// many seconds after the end of a mail.
    pub fn start(seconds: u64) -> Exim {
        assert!(Path::new(PROGRAM).exists(), "tests/lab/install installs exim4 if there is no other mail system");
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let at = dir.path().display();
        let config = format!(
            "primary_hostname = desk.example.org\nqualify_domain = example.org\ndomainlist here = example.org\n\
             spool_directory = {at}/spool\nlog_file_path = {at}/spool/%slog\nacl_smtp_rcpt = rcpt\nacl_smtp_data = data\n\
             host_lookup =\nrfc1413_query_timeout = 0s\nkeep_environment =\ntls_advertise_hosts =\n\
             begin acl\nrcpt:\n  require verify = recipient\n  accept\ndata:\n  accept delay = {seconds}s\n\
             begin routers\naliases:\n  driver = redirect\n  domains = +here\n  data = ${{lookup{{$local_part}}lsearch{{{at}/aliases}}}}\n\
             users:\n  driver = accept\n  domains = +here\n  local_parts = root : ops\n  transport = file\n\
             begin transports\nfile:\n  driver = appendfile\n  directory = {at}/mail/$local_part_data\n  create_directory\n  \
             maildir_format\n  user = {USER}\n"
        );
        fs::write(dir.path().join("exim.conf"), config).unwrap();
        fs::write(dir.path().join("aliases"), "team: root\n").unwrap();
        for folder in ["spool", "mail"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
            let owned = Command::new("chown").arg(USER).arg(dir.path().join(folder)).status().unwrap();
            assert!(owned.success());
        }
        let server = Command::new(PROGRAM)
            .arg("-C")
            .arg(dir.path().join("exim.conf"))
            .args(["-bdf", "-odf", "-oX", &format!("127.0.0.1.{port}"), "-oP", "/dev/null"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(began.elapsed() < Duration::from_secs(60), "exim does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Exim { dir, server, port }
    }

    /// A program in place of `/usr/sbin/sendmail`, which delivers before it ends.
    pub fn sendmail(&self) -> PathBuf {
        self.script("sendmail", &format!("exec {PROGRAM} -C {}/exim.conf -odf \"$@\"", self.dir.path().display()))
    }

    /// msmtp in place of sendmail; it passes mails to the server.
    pub fn msmtp(&self) -> PathBuf {
        let at = self.dir.path();
        let config = format!(
            "account default\nhost 127.0.0.1\nport {}\nfrom desk@example.org\naliases {}\n",
            self.port,
            at.join("msmtp-aliases").display()
        );
        fs::write(at.join("msmtprc"), config).unwrap();
        fs::write(at.join("msmtp-aliases"), "root: root@example.org\n").unwrap();
        self.script("msmtp", &format!("exec /usr/bin/msmtp -C {}/msmtprc \"$@\"", at.display()))
    }

    fn script(&self, name: &str, line: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{line}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// The mails from kvmbackup that a user has received after all accepted mails are delivered.
    #[track_caller]
    pub fn mails(&self, user: &str) -> Vec<Mail> {
        let queued = || {
            let count = Command::new(PROGRAM).arg("-C").arg(self.dir.path().join("exim.conf")).arg("-bpc").output();
            String::from_utf8(count.unwrap().stdout).unwrap().trim().to_owned()
        };
        let began = Instant::now();
        while queued() != "0" {
            if began.elapsed() > Duration::from_secs(60) {
                let log = |name| fs::read_to_string(self.dir.path().join("spool").join(name)).unwrap_or_default();
                panic!("exim does not deliver: {}{}", log("mainlog"), log("paniclog"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let Ok(entries) = fs::read_dir(self.dir.path().join("mail").join(user).join("new")) else { return Vec::new() };
        let texts = entries.map(|entry| fs::read(entry.unwrap().path()).unwrap());
        // Excludes the agent's own reports about undeliverable mails.
        let ours = texts.filter(|text| String::from_utf8_lossy(text).contains("\nX-Kvmbackup-Run: "));
        ours.filter(|text| !String::from_utf8_lossy(text).contains("\nX-Failed-Recipients: "))
            .map(|text| parse(&text))
            .collect()
    }
}

impl Drop for Exim {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
