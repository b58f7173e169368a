//! The libvirt of another host: its images are not those at the same paths here.

use serde_json::json;

use crate::lab::{Disk, Lab, Program, try_virsh};

/// A libvirt URI with a command, which may lead to any host.
fn by_command(lab: &Lab) -> String {
    let via = lab.script("via", "exec virt-ssh-helper qemu:///system");
    format!("qemu+ext:///system?command={}", via.display())
}

#[test]
fn libvirt_of_another_host_is_refused_at_once() {
    let lab = Lab::new();
    let uri = by_command(&lab);
    let guest = lab.guest("remote").disk(Disk::qcow2("vda")).paused();
    assert!(try_virsh(&["-c", &uri, "domstate", guest.name()]).is_ok(), "the command leads to libvirt");
    for uri in [&uri, "qemu+ssh://root@localhost/system", "qemu+tcp://localhost/system"] {
        let program = Program::new(&lab).set("libvirt_uri", json!(uri)).domain(guest.name(), json!({}));
        for command in ["backup", "check", "recover", "list"] {
            let ran = program.run(&[command]);
            assert_eq!(ran.code, 2, "{ran:#?}");
            let line = std::fs::read_to_string(program.config()).unwrap();
            let line = line.lines().position(|line| line.contains("libvirt_uri")).unwrap() + 1;
            let place = format!("config.yml:{line}: lab.libvirt_uri: ");
            let said = ran.stdout + &ran.stderr;
            assert!(said.contains(&place) && said.contains("another host"), "{said}");
        }
    }
    assert!(!Program::new(&lab).backups().exists(), "something was backed up");
}

/// The URI of an alias is known only after connecting.
#[test]
fn alias_for_the_libvirt_of_another_host_is_refused() {
    let lab = Lab::new();
    let uri = by_command(&lab);
    std::fs::write("/etc/libvirt/libvirt.conf", format!("uri_aliases = [ \"field-remote={uri}\" ]\n")).unwrap();
    let guest = lab.guest("remote-alias").disk(Disk::qcow2("vda")).paused();
    assert!(try_virsh(&["-c", "field-remote", "domstate", guest.name()]).is_ok(), "the alias leads to libvirt");
    let program = Program::new(&lab).set("libvirt_uri", json!("field-remote")).domain(guest.name(), json!({}));
    let report = program.backup();
    assert_eq!(report.ran.code, 4, "{report:#?}");
    let error = &report.json["errors"][0];
    assert!(error["message"].as_str().unwrap().contains("qemu+ext:///system"), "{error:#}");
    assert!(error["hint"].as_str().unwrap().contains("Run kvmbackup on that host"), "{error:#}");
    assert!(!program.backups().join(guest.name()).exists(), "something was backed up");
    let check = program.run(&["check"]);
    assert!(check.code != 0 && check.stdout.contains("another host"), "{check:#?}");
    guest.assert_no_leftovers();
}
