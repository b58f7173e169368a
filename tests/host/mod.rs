//! A host whose guests are off. libvirt's own test driver reads them from a file, and their disk images are real. It
//! needs no daemon and no root, so it is for output and decisions of the program; live guests are in `tests/lab`.
#![allow(dead_code, reason = "every test binary compiles this and uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is test code")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use chrono::{DateTime, Datelike, Days, TimeDelta, Timelike, Utc, Weekday};
use serde_json::Value;

/// The section of the configuration that [`Host::configure`] writes.
pub const NAME: &str = "desk";

/// A host with a configuration, a target, a state directory and guests.
pub struct Host {
    dir: tempfile::TempDir,
    guests: Vec<(String, Vec<String>)>,
    /// Offset of its clock in hours behind UTC: it is noon there, so no test runs over midnight.
    behind: i64,
    today: Weekday,
}

/// The result of one call of the program.
#[derive(Debug)]
pub struct Run {
    /// The exit code; 128+n if it did not handle a signal that ended it.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Run {
    /// Panics unless the exit code is this one.
    #[track_caller]
    pub fn ends(self, code: i32) -> Run {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }

    /// Panics unless a line of standard output contains all of these.
    #[track_caller]
    pub fn tells(self, words: &[&str]) -> Run {
        let tells = self.out.lines().any(|line| words.iter().all(|word| line.contains(word)));
        assert!(tells, "no line with {words:?} in:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }

    /// The standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}\nstderr:\n{}", self.out, self.err))
    }
}

impl Host {
    /// A host with these guests, each with one qcow2 disk `vda`, and a configuration that makes all of them due every
    /// day.
    pub fn new(guests: &[&str]) -> Host {
        Host::in_folder(&std::env::temp_dir(), guests)
    }

    /// The same, in a new directory below this one.
    pub fn in_folder(folder: &Path, guests: &[&str]) -> Host {
        let now = Utc::now();
        let behind = i64::from(now.hour()) - 12;
        let today = (now - TimeDelta::hours(behind)).weekday();
        let mut host = Host { dir: tempfile::tempdir_in(folder).unwrap(), guests: Vec::new(), behind, today };
        std::fs::create_dir(host.path("images")).unwrap();
        for guest in guests {
            host.add(guest, "");
        }
        host.configure("", "{\"*\": {day_of_week: daily}}");
        host
    }

    /// Adds a guest with one disk, and with more XML for its `<devices>`.
    pub fn add(&mut self, guest: &str, devices: &str) {
        let image = self.image(guest);
        run("qemu-img", &["create", "-q", "-f", "qcow2", image.to_str().unwrap(), "8M"]);
        run("qemu-io", &["-c", "write -P 0xab 1M 64k", image.to_str().unwrap()]);
        let disk = format!(
            "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{}'/>\
             <target dev='vda' bus='virtio'/></disk>",
            image.display()
        );
        self.guests.push((guest.to_owned(), vec![disk, devices.to_owned()]));
        self.write_guests();
    }

    /// Adds a guest with a second disk `vdb` that cannot be saved while the guest is off, because it is encrypted.
    pub fn add_with_encrypted_disk(&mut self, guest: &str) {
        let second = self.path("second.luks");
        std::fs::write(&second, vec![0; 1 << 20]).unwrap();
        let disk = format!(
            "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{}'><encryption format='luks'>\
             <secret type='passphrase' uuid='0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f'/></encryption></source>\
             <target dev='vdb' bus='virtio'/></disk>",
            second.display()
        );
        self.add(guest, &disk);
    }

    /// Removes a guest from libvirt; its image stays.
    pub fn undefine(&mut self, guest: &str) {
        self.guests.retain(|(name, _)| name != guest);
        self.write_guests();
    }

    fn write_guests(&self) {
        let mut xml = "<node>".to_owned();
        for (at, (name, devices)) in self.guests.iter().enumerate() {
            write!(
                xml,
                "<domain type='test' xmlns:test='http://libvirt.org/schemas/domain/test/1.0'><name>{name}</name>\
                 <uuid>5a58ba3c-5c3c-4f3c-8a3c-{at:012}</uuid><memory>1024</memory><os><type>hvm</type></os>\
                 <devices>{}</devices><test:runstate>5</test:runstate></domain>",
                devices.concat()
            )
            .unwrap();
        }
        std::fs::write(self.path("node.xml"), xml + "</node>").unwrap();
    }

    /// A path in the host's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Creates an executable shell script in the host's directory.
    pub fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// The image of a guest's disk.
    pub fn image(&self, guest: &str) -> PathBuf {
        self.path("images").join(format!("{guest}.qcow2"))
    }

    /// The URI of the libvirt that knows the guests.
    pub fn uri(&self) -> String {
        format!("test://{}", self.path("node.xml").display())
    }

    /// Today's weekday on this host.
    pub fn today(&self) -> Weekday {
        self.today
    }

    /// A weekday that is neither today nor yesterday.
    pub fn another_day(&self) -> Weekday {
        self.today.succ()
    }

    /// Writes the configuration: more keys of the host (YAML, one per line), and its `domains` (YAML, in one line).
    pub fn configure(&self, keys: &str, domains: &str) {
        let keys: String = keys.lines().map(|line| format!("  {}\n", line.trim())).collect();
        let has = |key: &str| keys.lines().any(|line| line.trim().starts_with(key));
        let mut text = format!("{NAME}:\n{keys}  domains: {domains}\n");
        let mut default = |key: &str, value: String| {
            if !has(key) {
                writeln!(text, "  {key} {value}").unwrap();
            }
        };
        if !has("repository:") {
            default("backupdir:", self.path("backups").display().to_string());
        }
        default("state_dir:", self.path("state").display().to_string());
        default("libvirt_uri:", self.uri());
        self.write_config(&text);
    }

    /// Writes this text as the configuration.
    pub fn write_config(&self, text: &str) {
        std::fs::write(self.path("config.yml"), text).unwrap();
    }

    /// Runs the program with this host's configuration; arguments are separated by blanks.
    pub fn run(&self, words: &str) -> Run {
        self.run_words(&words.split_whitespace().collect::<Vec<_>>())
    }

    /// The same, with separate arguments.
    pub fn run_words(&self, words: &[&str]) -> Run {
        let config = self.path("config.yml");
        let global = ["--config", config.to_str().unwrap(), "--host", NAME];
        self.finish(self.command(env!("CARGO_BIN_EXE_kvmbackup")).args(words).args(global))
    }

    /// A command with the host's clock and an environment without traces of the user who runs the test.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("TZ", format!("LAB{}", self.behind)).env_remove("KVMBACKUP_LOG").stdin(Stdio::null());
        command
    }

    /// Runs a command until it ends.
    pub fn finish(&self, command: &mut Command) -> Run {
        use std::os::unix::process::ExitStatusExt;
        let output = command.output().unwrap();
        let code = output.status.code().or(output.status.signal().map(|signal| 128 + signal)).unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Run { code, out: text(output.stdout), err: text(output.stderr) }
    }

    /// The archives of a guest, oldest first.
    pub fn archives(&self, guest: &str) -> Vec<PathBuf> {
        let Ok(folder) = std::fs::read_dir(self.path("backups").join(guest)) else { return Vec::new() };
        let mut paths: Vec<_> = folder.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
    }

    /// Creates past restore points from the newest one: copies with the ids of so many days ago.
    pub fn age(&self, guest: &str, days_ago: &[u64]) {
        let is_ours = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with(&format!("{guest}-"));
        let newest = self.archives(guest).into_iter().rfind(is_ours).unwrap();
        for days in days_ago {
            let time: DateTime<Utc> = Utc::now().checked_sub_days(Days::new(*days)).unwrap();
            let name = format!("{guest}-{}.tar.zst", time.format("%Y%m%dT%H%M%SZ"));
            std::fs::copy(&newest, newest.with_file_name(name)).unwrap();
        }
        std::fs::remove_file(newest).unwrap();
    }

    /// Every file and directory below the host's own, with its mode, modification time and contents.
    pub fn everything(&self) -> BTreeMap<PathBuf, (u32, i64, i64, Vec<u8>)> {
        let mut all = BTreeMap::new();
        walk(self.dir.path(), &mut |path, metadata| {
            let contents = if metadata.is_file() { std::fs::read(path).unwrap() } else { Vec::new() };
            all.insert(path.to_owned(), (metadata.mode(), metadata.mtime(), metadata.mtime_nsec(), contents));
        });
        all
    }

    /// The permission bits of every file and directory below one.
    pub fn modes(&self, below: &str) -> BTreeMap<PathBuf, u32> {
        let mut all = BTreeMap::new();
        walk(&self.path(below), &mut |path, metadata| {
            all.insert(path.to_owned(), metadata.permissions().mode() & 0o7777);
        });
        all
    }
}

fn walk(path: &Path, visit: &mut dyn FnMut(&Path, &std::fs::Metadata)) {
    let metadata = path.symlink_metadata().unwrap();
    visit(path, &metadata);
    if metadata.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            walk(&entry.unwrap().path(), visit);
        }
    }
}

/// Unpacks an archive into a new directory.
pub fn unpack(archive: &Path, parts: &Path) {
    std::fs::create_dir_all(parts).unwrap();
    run("tar", &["-C", parts.to_str().unwrap(), "-xf", archive.to_str().unwrap()]);
}

/// Creates an uncompressed archive of such a directory in its current state, with correct checksums; `more` are
/// arguments of tar.
pub fn pack(parts: &Path, archive: &Path, more: &str) {
    let script = format!(
        "cd {}; rm -f SHA256SUMS; files=$(find . -type f ! -name manifest.json -printf '%P ')\n\
         sha256sum manifest.json $files >SHA256SUMS\n\
         tar --format=gnu -b1 --owner=0 --group=0 -P -cf {} manifest.json $files {more} SHA256SUMS",
        parts.display(),
        archive.display(),
    );
    run("sh", &["-ec", &script]);
}

/// Runs a tool and returns its standard output. Panics when it fails.
#[track_caller]
pub fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
