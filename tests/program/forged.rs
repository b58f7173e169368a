//! Archives that a writer of the target has forged so that a restore puts a file where it is obeyed: nothing is written but in
//! the folder that the operator chose, and in those where this host keeps images.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::host;
use crate::host::{Host, run};

/// Folders of the system in which a new or changed file would be obeyed.
const SYSTEM: &[&str] =
    &["/etc", "/usr/local", "/boot", "/opt", "/root/.ssh", "/var/spool", "/var/lib/dpkg", "/var/log"];

struct Forge {
    host: Host,
    /// A restore point, and its bytes as they were written.
    archive: PathBuf,
    good: Vec<u8>,
}

impl Forge {
    fn new() -> Forge {
        let mut host = Host::new(&["other", "web"]);
        for folder in ["hooks", "textfile", "mail"] {
            fs::create_dir(host.path(folder)).unwrap();
        }
        let hook = host.path("hooks/note");
        fs::write(&hook, "#!/bin/sh\n").unwrap();
        run("chmod", &["755", hook.to_str().unwrap()]);
        fs::create_dir_all(host.path("state/journal")).unwrap();
        run("chmod", &["-R", "go-rwx", host.path("state").to_str().unwrap()]);
        symlink(host.path("state/journal"), host.path("images/link")).unwrap();
        fs::create_dir(host.path("images/sub")).unwrap();
        host.configure(
            &format!(
                "compression: {{method: none}}\n  metrics: {{textfile: {}}}\n  hooks: [{{name: note, phase: pre-run, command: [{}]}}]\n  \
                 mail: {{to: root, sendmail: /bin/true, templates: {}}}",
                host.path("textfile/kvmbackup.prom").display(),
                hook.display(),
                host.path("mail").display()
            ),
            "{\"*\": {day_of_week: daily}}",
        );
        host.run("backup").ends(0);
        let archive = host.archives("web").pop().unwrap();
        let good = fs::read(&archive).unwrap();
        // The other one's image makes the folder one of images.
        host.undefine("web");
        // The state folder as every restore leaves it.
        host.run("recover").ends(0);
        Forge { host, archive, good }
    }

    /// Makes the archive say that the disk lay at `place`, with right checksums.
    fn say(&self, place: &str) {
        fs::write(&self.archive, &self.good).unwrap();
        let parts = self.host.path("to/parts");
        let _ = fs::remove_dir_all(&parts);
        host::unpack(&self.archive, &parts);
        let image = self.host.image("web");
        for name in ["manifest.json", "domain.xml", "domain-inactive.xml", "domain-migratable.xml"] {
            let file = parts.join(name);
            let text = fs::read_to_string(&file).unwrap();
            let forged = text.replace(image.to_str().unwrap(), place);
            assert!(name == "domain-migratable.xml" || forged != text, "{name}");
            fs::write(file, forged).unwrap();
        }
        host::pack(&parts, &self.archive, "");
    }

    /// All that a forged archive must not change: names and contents of the host's folder, except the chosen folder, images, and
    /// what each command notes of itself.
    fn kept(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        const OWN: [&str; 6] =
            ["to", "images/web.qcow2", "state/ledger.", "state/lock", "state/textfile.lock", "textfile/kvmbackup.prom"];
        let own = OWN.map(|name| self.host.path(name).into_os_string().into_string().unwrap());
        let all = self.host.everything().into_iter().map(|(path, (_, _, _, bytes))| (path, bytes));
        all.filter(|(path, _)| !own.iter().any(|own| path.to_str().unwrap().starts_with(own))).collect()
    }
}

#[test]
fn a_forged_place_is_never_written_to() {
    let forge = Forge::new();
    let host = &forge.host;
    let stamp = host.path("to-stamp");
    fs::write(&stamp, "").unwrap();
    let own = |name: &str| host.path(name).to_str().unwrap().to_owned();
    let images = own("images");
    let mut places: Vec<String> = [
        "state/journal/x.json",
        "state/x",
        "state/lock",
        "config.yml",
        "x.yml",
        "hooks/note",
        "hooks/x",
        "textfile/x.prom",
        "mail/report.txt.hbs",
        "backups/web/x",
        "backups/x",
        "images/link/x.json",
        "images/../state/journal/x.json",
        "images/sub/x.qcow2",
        "IMAGES/x.qcow2",
    ]
    .iter()
    .map(|name| own(name))
    .collect();
    places.extend(
        [
            "/etc/cron.d/x",
            "/etc/systemd/system/x.service",
            "/root/.ssh/authorized_keys",
            "/var/spool/cron/crontabs/root",
            "/var/log/x",
            "/usr/local/sbin/x",
            "/dev/shm/x",
            "/proc/self/root/etc/cron.d/x",
            "/root/x",
            "/x",
            "x",
        ]
        .map(str::to_owned),
    );
    let to = own("to/restored");
    let modes = [
        "restore web --define".to_owned(),
        "restore web --define --overwrite".to_owned(),
        "restore web --define --name copy".to_owned(),
        format!("restore web --to {to}"),
        format!("restore web --define --name copy --to {to}"),
        format!("restore web --salvage --to {to}"),
    ];
    for place in &places {
        forge.say(place);
        let before = forge.kept();
        for mode in &modes {
            let ran = host.run(mode);
            let chosen = mode.contains("--to");
            assert!(chosen || ran.code == 1, "{place}: {mode}: {ran:?}");
            assert!(chosen || ran.err.contains("--to"), "{place}: {mode}: {ran:?}");
            let after = forge.kept();
            let differs = |path: &&PathBuf| before.get(*path) != after.get(*path);
            let changed: Vec<_> = before.keys().chain(after.keys()).filter(differs).collect();
            assert!(changed.is_empty(), "{place}: {mode}: {changed:?}: {ran:?}");
            let _ = fs::remove_dir_all(&to);
        }
    }
    let mut find = SYSTEM.iter().copied().filter(|folder| Path::new(folder).exists()).collect::<Vec<_>>();
    find.extend(["-newer", stamp.to_str().unwrap(), "-name", "x*"]);
    assert_eq!(run("find", &find), "", "files of the system were written");

    // Where the host keeps its images, an archive may name any plain file.
    forge.say(&format!("{images}/other.qcow2"));
    host.run("restore web --define --name fine").ends(0);
    assert!(host.path("images/fine-vda.qcow2").exists());
}

#[test]
fn the_journal_obeys_no_file_that_a_backup_would_not_write() {
    let host = Host::new(&["web"]);
    host.run("backup").ends(0);
    let (victim, folder) = (host.path("victim"), host.path("folder"));
    fs::write(&victim, "precious").unwrap();
    fs::create_dir(&folder).unwrap();
    let entry = |sockets: &str, partial: &str, uri: &str| {
        format!(
            r#"{{"schema": 1, "run_id": "04614870-e386-4a0d-aed8-0ce2626bc32a", "started": "2020-01-01T00:00:00Z",
            "libvirt_uri": "{uri}", "domain": {{"name": "nobody", "uuid": "13b8d9f2-bb55-4bd2-8ac6-5fef68fb3999"}},
            "frozen": false, "overlays": [], "pull": null, "sockets": {sockets}, "partial": {partial}}}"#
        )
    };
    let path = |path: &Path| format!("{:?}", path.display().to_string());
    let runs = format!("qemu+ext:///system?command={}", host.path("touch").display());
    let script = host.path("touch");
    fs::write(&script, format!("#!/bin/sh\ntouch {}\n", host.path("touched").display())).unwrap();
    run("chmod", &["755", script.to_str().unwrap()]);
    let uri = host.uri();
    for (what, text, mode) in [
        ("sockets", entry(&path(&folder), "null", &uri), "600"),
        ("partial", entry("null", &path(&victim), &uri), "600"),
        ("a URI that runs a program", entry("null", "null", &runs), "600"),
        ("writable by others", entry("null", "null", &uri), "666"),
    ] {
        let file = host.path("state/journal/x.json");
        fs::write(&file, text).unwrap();
        run("chmod", &[mode, file.to_str().unwrap()]);
        let ran = host.run("recover");
        assert!([4, 5, 7].contains(&ran.code), "{what}: {ran:?}");
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious", "{what}");
        assert!(folder.exists() && !host.path("touched").exists(), "{what}");
        fs::remove_file(file).unwrap();
    }
    host.run("recover").ends(0);
    // A state folder that others can write to is not used at all.
    run("chmod", &["777", host.path("state").to_str().unwrap()]);
    for command in ["recover", "backup --force web", "check"] {
        let ran = host.run(command);
        assert!(ran.code != 0 && (ran.err + &ran.out).contains("writable by its group or by others"), "{command}");
    }
}

#[test]
fn nothing_is_restored_into_a_folder_that_others_can_change() {
    let host = Host::new(&["web"]);
    host.run("backup").ends(0);
    let open = host.path("open");
    fs::create_dir(&open).unwrap();
    run("chmod", &["777", open.to_str().unwrap()]);
    for to in [open.clone(), open.join("new/deep")] {
        for words in ["restore web", "restore web --salvage", "restore web --define --name copy"] {
            let ran = host.run(&format!("{words} --to {}", to.display()));
            assert!(ran.code == 1 && ran.err.contains("writable by its group or by others"), "{words}: {ran:?}");
        }
    }
    assert_eq!(fs::read_dir(&open).unwrap().count(), 0);
    // As /tmp is: what is made in there stays its maker's.
    run("chmod", &["1777", open.to_str().unwrap()]);
    host.run(&format!("restore web --to {}", open.join("new").display())).ends(0);
}
