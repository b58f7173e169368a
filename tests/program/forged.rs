//! Archives that a writer of the target has forged so that a restore would put a file where it takes effect. Files are
//! written only to the directory that the operator chose, and to those where this host keeps images.

use std::fs;
use std::path::{Path, PathBuf};

use self::archives::{FORBIDDEN, Forge, Kind, listed};
use self::machine::Machine;
use crate::host::{Host, run};

mod archives;
mod machine;

/// Files that each command writes for itself, in the directory of the host.
const OWN: [&str; 4] = ["state/ledger.", "state/lock", "state/textfile.lock", "textfile/kvmbackup.prom"];

/// Ways to restore; `TO` is a directory that the operator names.
const MODES: [&str; 6] = [
    "--define",
    "--define --overwrite",
    "--define --name copy",
    "--to TO/files",
    "--define --overwrite --to TO/same",
    "--salvage --to TO/salvage",
];

/// Places in the directory of the host.
const PLACES: [&str; 23] = [
    "state/journal/x.json",
    "state/x",
    "state/lock",
    "state/ledger.json",
    "state/mail/spool/x.json",
    "config.yml",
    "x.yml",
    "hooks/note",
    "hooks/x",
    "textfile/x.prom",
    "textfile/kvmbackup.prom",
    "mail/report.txt.hbs",
    "backups/web/x",
    "backups/x",
    "images/link/x.json",
    "images/cron/x",
    "images/../state/journal/x.json",
    "images/./../images/sub/../../state/x",
    "images/link/../x",
    "images/sub/x.qcow2",
    "IMAGES/x.qcow2",
    "Images/x.qcow2",
    "images /x.qcow2",
];

/// Places of the system.
const SYSTEM: [&str; 15] = [
    "/etc/cron.d/x",
    "/etc/CRON.D/x",
    "/etc/systemd/system/x.service",
    "/etc/libvirt/hooks/qemu",
    "/root/.ssh/authorized_keys",
    "/var/spool/cron/crontabs/root",
    "/var/log/x",
    "/usr/local/sbin/x",
    "/dev/shm/x",
    "/dev/x",
    "/proc/self/root/etc/cron.d/x",
    "/proc/self/cwd/x",
    "/root/x",
    "/tmp/x",
    "/x",
];

/// Restores an archive with each of these places in each of these modes, in a copy of this machine. Only places that
/// the operator named are written, and an archive alone is refused.
fn try_all(forge: &Forge, (places, modes): (&[String], &[&str]), kind: Kind, bound: &[(PathBuf, PathBuf)]) {
    let to = forge.host.path("to");
    for place in places {
        forge.say(kind, place);
        let machine = Machine::new(&forge.host, bound);
        for mode in modes {
            let chosen = mode.contains("--to");
            let ran = machine.run(&forge.host, &format!("restore web {}", mode.replace("TO", to.to_str().unwrap())));
            let told = format!("{kind:?}: {place}: {mode}: {ran:?}");
            let refused = !chosen && !matches!(kind, Kind::Beside);
            assert_eq!(ran.code, if refused { 1 } else { 0 }, "{told}");
            assert!(!refused || ran.err.contains("--to"), "{told}");
            let may = |path: &Path| is_own(&forge.host, path) || !refused && is_for_images(&forge.host, path);
            assert_eq!(machine.written(may), Vec::<PathBuf>::new(), "{told}");
        }
        for (path, bytes) in machine.contents(|path| is_own(&forge.host, path) && !path.starts_with(&to)) {
            assert!(!bytes.starts_with(b"QFI"), "{kind:?}: {place}: {} was replaced", path.display());
        }
    }
}

/// Whether a command may write there: its own records, and the directory that the operator names.
fn is_own(host: &Host, path: &Path) -> bool {
    let Ok(path) = path.strip_prefix(host.path("")) else { return false };
    path.starts_with("to") || OWN.iter().any(|own| path.to_str().unwrap().starts_with(own))
}

/// Whether images, and files that belong to them, may be written there: as new files among the images.
fn is_for_images(host: &Host, path: &Path) -> bool {
    let is_new = path.symlink_metadata().is_err();
    path.starts_with("/var/lib/libvirt/swtpm") || is_new && path.parent() == Some(&host.path("images"))
}

fn places(forge: &Forge) -> Vec<String> {
    let own = PLACES.iter().map(|name| text(&forge.host.path(name)));
    own.chain(SYSTEM.map(str::to_owned)).collect()
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

#[test]
fn forged_place_is_never_written_to() {
    let forge = Forge::new();
    try_all(&forge, (&places(&forge), &MODES), Kind::Ours, &[]);
}

#[test]
fn place_in_a_forged_archive_of_the_legacy_script_is_never_written_to() {
    let forge = Forge::new();
    try_all(&forge, (&places(&forge), &MODES), Kind::Script, &[]);
}

#[test]
fn files_beside_the_disks_in_a_forged_place_are_restored_beside_them() {
    let forge = Forge::new();
    try_all(&forge, (&places(&forge), &["--define --overwrite", "--define --name copy"]), Kind::Beside, &[]);
}

#[test]
fn link_among_the_images_is_never_followed() {
    let forge = Forge::new();
    let places = ["images/link.qcow2", "images/dangling.qcow2"].map(|name| text(&forge.host.path(name)));
    for kind in [Kind::Ours, Kind::Script] {
        try_all(&forge, (&places, &["--define", "--define --overwrite", "--to TO/files"]), kind, &[]);
    }
}

/// A bind mount gives a directory another path.
#[test]
fn forbidden_directory_mounted_among_the_images_is_never_written_to() {
    let forge = Forge::new();
    let path = |name: String| forge.host.path(&name);
    let forbidden = FORBIDDEN.iter().enumerate();
    // Below the images, and where a guest has its image.
    let own = forbidden.flat_map(|(at, folder)| {
        [path(format!("images/bound-{at}")), path(listed(at))].map(|to| (forge.host.path(folder), to))
    });
    let system = ["/etc/cron.d", "/etc", "/root", "/"].map(|folder| (folder.into(), path(format!("images{folder}"))));
    let bound: Vec<(PathBuf, PathBuf)> = own.chain(system).collect();
    bound.iter().for_each(|(_, to)| fs::create_dir_all(to).unwrap());
    let below = ["images/etc/cron.d/x", "images/root/.ssh/x"].map(|name| text(&path(name.to_owned())));
    let places: Vec<String> = bound.iter().map(|(_, to)| text(&to.join("x"))).chain(below).collect();
    for kind in [Kind::Ours, Kind::Script] {
        try_all(&forge, (&places, &MODES[..3]), kind, &bound);
    }
}

/// Checks the assumptions of the tests above: every write in a copy is detected, and permitted files are written.
#[test]
fn image_is_restored_among_the_images_and_every_write_is_detected() {
    let forge = Forge::new();
    let host = &forge.host;
    let place = text(&host.path("images/other.qcow2"));
    for kind in [Kind::Ours, Kind::Script] {
        forge.say(kind, &place);
        let machine = Machine::new(host, &[]);
        machine.run(host, "restore web --define --name fine").ends(0);
        assert_eq!(
            machine.written(|path| is_own(host, path)),
            [host.path("images"), host.path("images/fine-vda.qcow2")]
        );
        let script =
            "echo >/etc/cron.d/x; echo >/dev/shm/x; echo >/opt/x; rm /opt/x; chmod 700 /usr/local; rm /etc/passwd";
        host.finish(machine.command(host, "sh").args(["-ec", script])).ends(0);
        let seen = ["/dev/shm/x", "/etc/cron.d/x", "/etc/passwd", "/opt", "/usr/local"].map(PathBuf::from);
        let written = machine.written(|path| path.starts_with(host.path("")));
        assert!(seen.iter().all(|path| written.contains(path)), "{written:?}");
        assert!(!Path::new("/etc/cron.d/x").exists());
    }
}

#[test]
fn journal_entry_cannot_name_a_file_that_a_backup_would_not_write() {
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
    let script = host.script("touch", &format!("touch {}", host.path("touched").display()));
    let runs = format!("qemu+ext:///system?command={}", script.display());
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
    // A state directory that others can write to is not used at all.
    run("chmod", &["777", host.path("state").to_str().unwrap()]);
    for command in ["recover", "backup --force web", "check"] {
        let ran = host.run(command);
        assert!(ran.code != 0 && (ran.err + &ran.out).contains("writable by its group or by others"), "{command}");
    }
}

#[test]
fn nothing_is_restored_into_a_directory_that_others_can_change() {
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
    // A sticky directory like /tmp: files in it can be replaced only by their owner.
    run("chmod", &["1777", open.to_str().unwrap()]);
    host.run(&format!("restore web --to {}", open.join("new").display())).ends(0);
}
