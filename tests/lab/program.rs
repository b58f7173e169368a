//! Runs kvmbackup as an operator does: a configuration, a target, a state directory, the program itself. Its results
//! are checked only with standard tools.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use super::guest::quoted;
use super::{Guest, Lab, run, virsh_all};

/// An installation of kvmbackup in a lab's directory, with its own configuration.
pub struct Program {
    dir: PathBuf,
    host: Value,
    /// The prefix of each command.
    limits: Vec<String>,
}

/// The result of one run.
#[derive(Debug)]
pub struct Ran {
    /// The exit code; 128 + n after signal n.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Program {
    /// One whose configuration names no domain yet. Target and state are in `backups` and `state` of the lab's
    /// directory.
    pub fn new(lab: &Lab) -> Self {
        let dir = lab.dir().to_owned();
        // The lab is on the machine's file system, which may be nearly full.
        let host = json!({"backupdir": dir.join("backups"), "state_dir": dir.join("state"), "min_free": "0%",
            "domains": {}});
        Program { dir, host, limits: Vec::new() }.written()
    }

    /// Sets a key of the host's section.
    pub fn set(mut self, key: &str, value: Value) -> Self {
        self.host[key] = value;
        self.written()
    }

    /// Makes the target a new repository. The configuration must have a domain.
    pub fn in_repository(mut self) -> Self {
        let [password, cache] = ["repository.password", "cache"].map(|name| self.dir.join(name));
        std::fs::write(&password, "a password\n").expect("cannot write the password");
        run("chmod", &["600", password.to_str().expect("paths are UTF-8")]);
        self.host.as_object_mut().expect("a host is a mapping").remove("backupdir");
        let keys = json!({"url": self.backups(), "password_file": password, "cache_dir": cache});
        let program = self.set("repository", keys);
        let ran = program.run(&["repository", "init"]);
        assert_eq!(ran.code, 0, "{ran:#?}");
        program
    }

    /// Runs restic on the repository, and returns what it prints.
    pub fn restic(&self, arguments: &[&str]) -> String {
        let [repository, password] = [self.backups(), self.dir.join("repository.password")];
        let paths = [&repository, &password].map(|path| path.to_str().expect("paths are UTF-8"));
        let own = ["--no-cache", "-r", paths[0], "--password-file", paths[1]];
        run("restic", &own.iter().chain(arguments).copied().collect::<Vec<_>>())
    }

    /// Adds a domain, or changes it: due every day, with these `keys`.
    pub fn domain(mut self, name: &str, keys: Value) -> Self {
        let mut entry = json!({"day_of_week": ["daily"]});
        let keys = keys.as_object().expect("keys are a mapping").clone();
        entry.as_object_mut().expect("an entry is a mapping").extend(keys);
        self.host["domains"][name] = entry;
        self.written()
    }

    /// Prefixes every command with these words, which take a privilege or resource away from it.
    pub fn within(self, limits: Vec<String>) -> Self {
        Program { limits, ..self }
    }

    /// YAML is a superset of JSON.
    fn written(self) -> Self {
        let text = serde_json::to_string_pretty(&json!({"lab": self.host})).expect("JSON can be written");
        std::fs::write(self.config(), text).expect("cannot write the configuration");
        self
    }

    /// The configuration's path. Its only host is `lab`.
    pub fn config(&self) -> PathBuf {
        self.dir.join("config.yml")
    }

    /// The directory of the restore points.
    pub fn backups(&self) -> PathBuf {
        self.dir.join("backups")
    }

    /// The directory of the journal and the lock.
    pub fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// The program with this configuration; the caller adds a command.
    pub fn command(&self) -> Command {
        let mut words = self.limits.iter().map(String::as_str).chain([env!("CARGO_BIN_EXE_kvmbackup")]);
        let mut command = super::command::command(words.next().expect("there is at least the program"));
        command.args(words).arg("--config").arg(self.config()).args(["--host", "lab"]);
        command
    }

    /// Runs it until it ends.
    pub fn run(&self, args: &[&str]) -> Ran {
        Ran::from(self.command().args(args).output().expect("cannot run kvmbackup"))
    }

    /// Backs up all domains of the configuration; returns the report.
    pub fn backup(&self) -> Report {
        Report::from(self.run(&["backup", "--json"]))
    }

    /// [`Program::backup`] of the only domain of the configuration, which must succeed without warnings.
    pub fn backup_well(&self) -> Report {
        let report = self.backup();
        assert_eq!(report.ran.code, 0, "{report:#?}");
        report
    }

    /// The archive that a report names: `<name>/<name>-<point>.<ending>`, with unsafe bytes of a file name as `%XX`.
    pub fn archive(&self, report: &Report, domain: &str) -> PathBuf {
        let name: String = domain.bytes().map(encoded).collect();
        let outcome = report.domain(domain);
        let point = outcome["point"].as_str().unwrap_or_else(|| panic!("no restore point: {outcome:#}"));
        let files = ["tar.zst", "tar.gz", "tar"]
            .map(|ending| self.backups().join(&name).join(format!("{name}-{point}.{ending}")))
            .into_iter()
            .filter(|file| file.exists())
            .collect::<Vec<_>>();
        assert_eq!(files.len(), 1, "the archive of {domain}, point {point}: {files:?}");
        files[0].clone()
    }

    /// Unpacks the archive that a report names.
    pub fn unpack(&self, report: &Report, domain: &str) -> Unpacked {
        Unpacked::from(&self.archive(report, domain))
    }

    /// Panics unless a run has left only its archives, its report, its lock and the files for monitoring, and the guest
    /// is unchanged.
    pub fn assert_no_leftovers(&self, guest: &Guest) {
        guest.assert_no_leftovers();
        let files = |dir: &Path| run("find", &[dir.to_str().expect("paths are UTF-8"), "-type", "f"]);
        let state = files(&self.state());
        let stays = [
            "/lock",
            "/last-report.json",
            "/ledger.json",
            "/ledger.lock",
            "/survey.json",
            "/textfile.lock",
            "/verified.lock",
            "/verified.json",
        ];
        let journal = state.lines().filter(|file| !stays.iter().any(|name| file.ends_with(name)));
        assert_eq!(journal.collect::<Vec<_>>(), Vec::<&str>::new(), "left in the state directory");
        let sockets = self.state().join("sockets");
        let sockets = sockets.exists().then(|| std::fs::read_dir(sockets).expect("readable").count());
        assert_eq!(sockets.unwrap_or_default(), 0, "sockets were left");
        let partial = files(&self.backups());
        assert!(!partial.lines().any(|file| file.ends_with(".part")), "unfinished archives were left: {partial}");
        // Overlays and scratch files of devices do not have their own directory.
        let word = quoted(guest.name());
        let [uuid, id] = virsh_all([&format!("domuuid {word}"), &format!("domid {word}")]);
        let elsewhere = files(Path::new("/var/lib/libvirt/images"));
        assert!(!elsewhere.contains(uuid.trim()), "left in libvirt's directory: {elsewhere}");
        // A guest that is off has no id.
        if id.trim() != "-" {
            let pattern = format!("/var/lib/libvirt/qemu/domain-{}-*/kvmbackup*", id.trim());
            let found = run("find", &["/var/lib/libvirt/qemu", "-path", &pattern]);
            assert_eq!(found, "", "a socket was left");
        }
    }
}

/// One byte of a domain's name as written in a file name.
fn encoded(byte: u8) -> String {
    match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        use std::os::unix::process::ExitStatusExt;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let signal = output.status.signal().map_or(-1, |signal| 128 + signal);
        Ran { code: output.status.code().unwrap_or(signal), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }
}

/// A report of a run, as printed by `--json`.
#[derive(Debug)]
pub struct Report {
    /// The run.
    pub ran: Ran,
    /// The report.
    pub json: Value,
}

impl From<Ran> for Report {
    fn from(ran: Ran) -> Self {
        let json = serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("no report: {error}: {ran:#?}"));
        Report { ran, json }
    }
}

impl Report {
    /// The part of one domain.
    pub fn domain(&self, name: &str) -> &Value {
        let domains = self.json["domains"].as_array().expect("a report has domains");
        domains.iter().find(|domain| domain["domain"] == name).unwrap_or_else(|| panic!("{name} is not in {self:#?}"))
    }

    /// The disks of a domain that are in its archive.
    pub fn disks(&self, domain: &str) -> Vec<&str> {
        let disks = self.domain(domain)["disks"].as_array().expect("an outcome has disks");
        disks.iter().filter_map(|disk| disk["target"].as_str()).collect()
    }

    /// The disk of a domain that is not in its archive.
    pub fn skipped(&self, domain: &str, target: &str) -> &Value {
        let skipped = self.domain(domain)["skipped"].as_array().expect("an outcome has skipped disks");
        let found = skipped.iter().find(|disk| disk["target"] == target);
        found.unwrap_or_else(|| panic!("{target} was not left out: {self:#?}"))
    }
}

/// An archive, unpacked by `tar` into a directory that is removed when this is dropped.
pub struct Unpacked {
    dir: tempfile::TempDir,
}

impl From<&Path> for Unpacked {
    /// Unpacks the archive and checks everything that can be checked without kvmbackup: every member against
    /// `SHA256SUMS`, which names them all, and every disk with `qemu-img check`.
    fn from(archive: &Path) -> Self {
        let dir = tempfile::tempdir().expect("cannot create a directory");
        let [archive, folder] = [archive, dir.path()].map(|path| path.to_str().expect("paths are UTF-8"));
        let codec: &[&str] = match archive.rsplit('.').next() {
            Some("zst") => &["--zstd"],
            Some("gz") => &["--gzip"],
            _ => &[],
        };
        run("tar", &[codec, &["-C", folder, "-xf", archive]].concat());
        let unpacked = Unpacked { dir };
        unpacked.check();
        unpacked
    }
}

impl From<&PathBuf> for Unpacked {
    fn from(archive: &PathBuf) -> Self {
        Unpacked::from(archive.as_path())
    }
}

impl Unpacked {
    /// The path of a member.
    pub fn path(&self, member: &str) -> PathBuf {
        self.dir.path().join(member)
    }

    /// The names of all members, sorted.
    pub fn members(&self) -> Vec<String> {
        let folder = self.dir.path().to_str().expect("paths are UTF-8");
        let mut members: Vec<_> =
            run("find", &[folder, "-type", "f", "-printf", "%P\n"]).lines().map(str::to_owned).collect();
        members.sort();
        members
    }

    /// `manifest.json`.
    pub fn manifest(&self) -> Value {
        let text = std::fs::read(self.path("manifest.json")).expect("an archive has a manifest");
        serde_json::from_slice(&text).expect("the manifest is JSON")
    }

    /// The image of a disk.
    pub fn disk(&self, target: &str) -> PathBuf {
        self.path(&format!("disks/{target}.qcow2"))
    }

    fn check(&self) {
        let folder = self.dir.path().to_str().expect("paths are UTF-8");
        let checked = run("sh", &["-c", "cd \"$1\" && sha256sum --strict -c SHA256SUMS", "sh", folder]);
        let mut members = self.members();
        members.retain(|member| member != "SHA256SUMS");
        assert_eq!(checked.lines().count(), members.len(), "SHA256SUMS must name every member: {checked} {members:?}");
        for disk in members.iter().filter(|member| member.starts_with("disks/")) {
            let path = self.path(disk);
            super::qemu_img(&["check", "-q", "-f", "qcow2", path.to_str().expect("paths are UTF-8")]);
        }
    }
}
