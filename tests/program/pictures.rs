//! The screenshots of README.md: the status page and a mail, as the program renders them. `make pictures` writes them.

use std::path::Path;
use std::process::Command;

use kvmbackup::ledger::Tally;

use crate::browser::Browser;
use crate::host::{Host, run};
use crate::mailbox::parse;
use crate::serving::Exporter;
use crate::watched::{self, Watched};

const PROGRAM: &str = env!("CARGO_BIN_EXE_kvmbackup");

#[test]
fn pictures_of_the_readme() {
    let Some(folder) = std::env::var_os("KVMBACKUP_PICTURES") else { return };
    let folder = Path::new(&folder);
    let host = host();
    host.finish(on_cloud1(&host).arg("backup")).ends(1);
    let html = parse(&std::fs::read(host.path("mail")).unwrap()).html().to_owned();
    let page = host.path("mail.html");
    std::fs::write(&page, &html).unwrap();
    take(&format!("file://{}", page.display()), &html, 900, &folder.join("mail.png"));

    let state = host.path("state");
    bad_night().save(&state);
    // The exporter takes no survey while this lock is held.
    let lock = std::fs::File::create(state.join("ledger.lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let served = Exporter::spawn(on_cloud1(&host).args(["exporter", "--listen", "127.0.0.1:0"]));
    take(&served.url("/"), &served.get("/").body, 1341, &folder.join("status-page.png"));
}

/// Takes a picture of the whole page. All have the same width: twice that of a README, so that they are sharp.
fn take(url: &str, html: &str, width: u32, to: &Path) {
    let browser = Browser::new();
    let [seen] = browser.measure(&[html], &[width]).try_into().unwrap();
    assert!(seen.scroll_width == width && seen.outside.is_empty(), "{seen:?}");
    let size = format!("--window-size={width},{}", seen.height);
    let scale = format!("--force-device-scale-factor={}", 1680.0 / f64::from(width));
    browser.shoot(url, to, &[&size, &scale, "--disable-lcd-text"]);
}

/// The program on a host named `cloud1`, with configuration and target at the usual paths.
fn on_cloud1(host: &Host) -> Command {
    const ENTER: &str = "hostname cloud1; mount -t overlay -o lowerdir=etc:/etc overlay /etc; mount --bind mnt /mnt; exec \"$0\" \"$@\"";
    let mut command = host.command("unshare");
    command.args(["--mount", "--uts", "sh", "-ec", ENTER, PROGRAM]).env_remove("TZ").current_dir(host.path(""));
    command
}

/// Guests with real disks, an entry that no guest matches, a hook that fails, and an encrypted disk.
fn host() -> Host {
    let mut host = Host::new(&["DockerNode1", "mail", "web-1"]);
    host.add_with_encrypted_disk("files");
    for (guest, size) in [("DockerNode1", 150), ("files", 90), ("mail", 60), ("web-1", 30)] {
        let image = host.image(guest);
        run("qemu-img", &["resize", "-q", image.to_str().unwrap(), "20G"]);
        run("qemu-io", &["-c", &format!("write -s {PROGRAM} 0 {size}M"), image.to_str().unwrap()]);
    }
    let hook =
        host.script("mailstore", "echo 'mailstore: cannot connect to 192.0.2.25:4190: Connection refused'; exit 1");
    let hook = format!("{{name: mailstore, phase: pre-domain, on_error: warn, command: [{}]}}", hook.display());
    let sendmail = host.script("sendmail", &format!("exec cat >{}", host.path("mail").display()));
    for folder in ["etc/kvmbackup", "mnt/backup"] {
        std::fs::create_dir_all(host.path(folder)).unwrap();
    }
    let config = format!(
        "cloud1:\n  backupdir: /mnt/backup\n  state_dir: {}\n  libvirt_uri: {}\n  day_of_week: daily\n  rotate: 7\n  \
         mail: {{to: root, sendmail: {}}}\n  \
         domains: {{db1: {{}}, DockerNode1: {{}}, files: {{}}, mail: {{hooks: [{hook}]}}, web-1: {{}}}}\n",
        host.path("state").display(),
        host.uri(),
        sendmail.display()
    );
    std::fs::write(host.path("etc/kvmbackup/config.yml"), config).unwrap();
    host
}

/// Half of the guests of a bad night, so that they fit on one screen.
fn bad_night() -> Watched {
    let mut watched = watched::bad_night(chrono::Utc::now());
    let shown = ["db1", "DockerNode1", "files", "proxy", "web-1", "web-2"];
    let is_shown = |name: &String| shown.contains(&name.as_str());
    watched.ledger.domains.retain(|name, _| is_shown(name));
    watched.survey.as_mut().unwrap().domains.retain(|name, _| is_shown(name));
    watched.ledger.reports.clear();
    let job = watched.ledger.jobs.get_mut("cloud1").unwrap();
    job.domains = [(Tally::Selected, 6), (Tally::Success, 5), (Tally::Failure, 1)].into();
    watched
}
