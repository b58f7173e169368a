//! If the definition of a restored guest reaches into this host, an operator must accept it before it is defined.

use std::fs;
use std::process::Stdio;

use serde_json::json;

use crate::lab::{Disk, Guest, Lab, Program, Ran, try_virsh, virsh};

const EVIL: &str = "<serial type='tcp'><source mode='connect' host='127.0.0.1' service='9'/><protocol type='raw'/></serial>\
    <graphics type='vnc' port='-1' autoport='yes' listen='0.0.0.0'/>";

/// A guest that was backed up and is gone; its devices besides one disk.
fn gone(lab: &Lab, name: &str, devices: &str) -> Program {
    let guest = lab.guest(name).disk(Disk::raw("vda").size("4M")).devices(devices).define();
    let program = Program::new(lab).domain(name, json!({}));
    program.backup_well();
    drop(guest);
    assert!(try_virsh(&["dominfo", name]).is_err());
    program
}

fn restore(program: &Program, lab: &Lab, name: &str, words: &[&str]) -> Ran {
    let to = lab.path("to");
    program.run(&[&["restore", name, "--define", "--to", to.to_str().unwrap()], words].concat())
}

#[test]
fn ordinary_guest_is_restored_without_confirmation() {
    let lab = Lab::new();
    let name = "access-ordinary";
    let devices = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>\
        <graphics type='vnc' port='-1' autoport='yes' listen='127.0.0.1'/><input type='tablet' bus='usb'/>\
        <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng><serial type='pty'/>";
    let program = gone(&lab, name, devices);
    let ran = restore(&program, &lab, name, &[]);
    assert_eq!(ran.code, 0, "{ran:#?}");
    let guest = lab.adopt(name);
    assert!(!ran.stdout.contains("note: "), "{ran:#?}");
    guest.start_paused();
}

#[test]
fn guest_that_reaches_into_the_host_is_defined_only_after_acceptance() {
    let lab = Lab::new();
    let name = "access-evil";
    let program = gone(&lab, name, EVIL);
    let ran = restore(&program, &lab, name, &["--start"]);
    assert!(ran.code == 1 && ran.stderr.contains("was not accepted"), "{ran:#?}");
    assert!(ran.stderr.contains("hint: ") && ran.stderr.contains("--accept-host-access"), "{ran:#?}");
    for told in
        ["note: serial: type='tcp' mode='connect' host='127.0.0.1'", "note: graphics: type='vnc'", "listen='0.0.0.0'"]
    {
        assert!(ran.stdout.contains(told), "{told}: {ran:#?}");
    }
    assert!(!lab.path("to").exists() && try_virsh(&["dominfo", name]).is_err());

    let dry = restore(&program, &lab, name, &["--dry-run"]);
    assert!(dry.code == 0 && dry.stdout.contains("would be defined: access-evil"), "{dry:#?}");
    assert!(dry.stdout.contains("would restore") && dry.stdout.contains("listen='0.0.0.0'"), "{dry:#?}");
    assert!(dry.stdout.contains(lab.path("to").to_str().unwrap()), "{dry:#?}");
    assert!(!lab.path("to").exists() && try_virsh(&["dominfo", name]).is_err());

    let ran = restore(&program, &lab, name, &["--accept-host-access"]);
    assert!(ran.code == 0 && ran.stdout.contains("listen='0.0.0.0'"), "{ran:#?}");
    let guest = lab.adopt(name);

    // Access that the guest on this host already has needs no acceptance.
    let ran = restore(&program, &lab, name, &["--overwrite"]);
    assert_eq!(ran.code, 0, "{ran:#?}");
    redefine(&guest, &lab, "0.0.0.0", "127.0.0.1");
    let ran = restore(&program, &lab, name, &["--overwrite"]);
    assert!(ran.code == 1 && ran.stderr.contains("graphics") && !ran.stderr.contains("serial: "), "{ran:#?}");
}

fn redefine(guest: &Guest, lab: &Lab, from: &str, to: &str) {
    let file = lab.path("defined.xml");
    fs::write(&file, guest.inactive_xml().replace(from, to)).unwrap();
    virsh(&["define", file.to_str().unwrap()]);
}

#[test]
fn operator_is_asked_on_a_terminal() {
    let lab = Lab::new();
    let name = "access-asked";
    let program = gone(&lab, name, EVIL);
    let to = lab.path("to");
    for (answer, code) in [("n", 1), ("", 1), ("y", 0)] {
        let config = program.config();
        let command = format!(
            "{} restore {name} --define --to {} --config {} --host lab",
            env!("CARGO_BIN_EXE_kvmbackup"),
            to.display(),
            config.display()
        );
        let mut typed = std::process::Command::new("script");
        typed.args(["-qec", &command, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = typed.spawn().unwrap();
        std::io::Write::write_all(child.stdin.as_mut().unwrap(), format!("{answer}\n").as_bytes()).unwrap();
        let ran = Ran::from(child.wait_with_output().unwrap());
        assert_eq!(ran.code, code, "{answer:?}: {ran:#?}");
        assert!(ran.stdout.contains("Define the domain? [y/N]"), "{ran:#?}");
        assert_eq!(try_virsh(&["dominfo", name]).is_ok(), code == 0, "{answer:?}");
    }
    lab.adopt(name);
}
