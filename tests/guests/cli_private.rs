//! Private data: the modes of files and directories, and secrets in the domain XML.

use crate::host;
use crate::host::{Host, run};
use crate::lab::{Disk, Guest, Lab, virsh};

const SECRET: &str = "hunter2X";
/// Data that an operator passes to the guest in QEMU's own options, like that of Ignition and cloud-init.
const HANDED: &str = "opt/secret,string=hunter2X2";

#[test]
fn files_of_a_run_are_private_to_their_owner_regardless_of_the_umask() {
    let host = Host::new(&["a"]);
    let config = host.path("config.yml");
    for umask in ["0", "022", "077"] {
        let mut command = host.command("sh");
        let script = format!("umask {umask}; exec \"$@\"");
        command.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_kvmbackup"), "--force", "--host", host::NAME, "-c"]);
        host.finish(command.arg(&config)).ends(0);
        for (path, mode) in host.modes("backups").into_iter().chain(host.modes("state")) {
            let wanted = if path.is_dir() { 0o700 } else { 0o600 };
            assert_eq!(mode, wanted, "umask {umask}: {}: {mode:o}", path.display());
        }
        std::fs::remove_dir_all(host.path("backups")).unwrap();
        std::fs::remove_dir_all(host.path("state")).unwrap();
    }
}

/// Starts the guest with more of QEMU's own options.
fn hand_to_qemu(lab: &Lab, guest: &Guest) {
    let options = format!(
        "<qemu:commandline xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><qemu:arg value='-fw_cfg'/>\
         <qemu:arg value='name={HANDED}'/></qemu:commandline></domain>"
    );
    let definition = virsh(&["dumpxml", "--inactive", "--security-info", guest.name()]);
    let file = lab.path("handed.xml");
    std::fs::write(&file, definition.replace("</domain>", &options)).unwrap();
    virsh(&["define", file.to_str().unwrap()]);
}

#[test]
fn secret_of_a_live_guest_is_only_in_the_archive() {
    let lab = Lab::new();
    // A socket, because ports of the machine are shared with other labs.
    let graphics = format!("<graphics type='vnc' passwd='{SECRET}'><listen type='socket'/></graphics>");
    let guest = lab.guest("private").disk(Disk::qcow2("vda").size("4M")).devices(&graphics).define();
    hand_to_qemu(&lab, &guest);
    guest.start_paused();
    let host = Host::new(&[]);
    let configure = |more: &str| {
        host.configure("libvirt_uri: qemu:///system", &format!("{{private: {{day_of_week: daily{more}}}}}"));
    };
    configure("");
    let log = |words: &str| {
        let mut command = host.command(env!("CARGO_BIN_EXE_kvmbackup"));
        command.args(words.split(' ')).args(["--host", host::NAME, "-c"]).arg(host.path("config.yml"));
        let ran = host.finish(command.env("KVMBACKUP_LOG", "trace"));
        for text in [&ran.out, &ran.err] {
            assert!(!text.contains(SECRET), "{words} prints the secret:\n{text}");
        }
        ran
    };
    log("backup -vvv").ends(0);
    configure(", method: pull");
    log("backup --json").ends(0);
    log("report --format json").ends(0);
    log("backup --dry-run --json").ends(0);
    // A capture that fails late reports what libvirt refused, which must not be the XML.
    configure(", overlay_dir: /nonexistent/folder");
    log("backup -vvv").ends(1);
    for (path, (_, _, _, contents)) in host.everything() {
        let ours = path.starts_with(host.path("state"));
        let holds = contents.windows(SECRET.len()).any(|window| window == SECRET.as_bytes());
        assert!(!(ours && holds), "{} contains the secret", path.display());
    }

    let archive = host.archives("private").remove(0);
    for member in ["domain.xml", "domain-inactive.xml", "domain-migratable.xml"] {
        let xml = run("tar", &["--zstd", "-xOf", archive.to_str().unwrap(), member]);
        let needs = [format!("passwd='{SECRET}'"), HANDED.to_owned()];
        assert!(needs.iter().all(|needed| xml.contains(needed)), "{member} lacks data that a restore needs");
    }
    let manifest = run("tar", &["--zstd", "-xOf", archive.to_str().unwrap(), "manifest.json"]);
    assert!(!manifest.contains(SECRET));
    guest.assert_no_leftovers();
}
