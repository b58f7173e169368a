//! After SIGKILL with a frozen guest, and state that cannot be recovered completely at once.

use crate::lab;
use std::process::{Child, Stdio};

use crate::lab::{Call, DEADLINE, Disk, Gate, Lab, Program, virsh, wait_until};
use serde_json::json;

fn start(program: &Program) -> Child {
    let run = program.command().arg("backup").stdout(Stdio::null()).stderr(Stdio::inherit()).spawn();
    run.expect("cannot run kvmbackup")
}

fn kill_before(program: &Program, gate: &Gate, call: Call) {
    gate.hold(call);
    let mut run = start(program);
    gate.wait(&mut run);
    gate.kill(&mut run);
}

#[test]
fn guest_left_frozen_is_thawed() {
    let lab = Lab::new();
    let gate = Gate::new(&lab);
    let disk = Disk::qcow2("vda").size("64M");
    let guest = lab.guest("left-frozen").disk(disk).system("kb.writer kb.freezehang=0").boot();
    let keys = json!({"quiesce": "require", "compression": {"method": "none"}});
    let program = Program::new(&lab).set("libvirt_uri", json!(gate.uri())).domain(guest.name(), keys);

    kill_before(&program, &gate, Call::Snapshot);
    assert!(guest.is_frozen(), "the guest is frozen");
    let recovered = program.run(&["recover"]);
    assert_eq!(recovered.code, 0, "{recovered:#?}");
    assert!(recovered.stdout.contains("left-frozen: the run of ") && recovered.stdout.contains("thawed the guest"));
    program.assert_no_leftovers(&guest);
    let newest = guest.check_writer_sums("vda");

    kill_before(&program, &gate, Call::Thaw);
    assert!(guest.is_frozen() && guest.live_xml().contains(".kvmbackup-"));
    let report = program.backup_well();
    let recovered = report.json["recovered"].to_string();
    assert!(recovered.contains("thawed the guest") && recovered.contains("committed vda back to its base"));
    program.assert_no_leftovers(&guest);
    assert!(guest.check_writer_sums("vda") >= newest);

    // The freeze is in progress and completes during recovery.
    let slow = "#!/bin/sh\n[ $1 != freeze ] || { echo KB-FREEZING >/dev/console; sleep 4; }\necho $1 >>/tmp/hook\n";
    guest.agent_exec(&format!("cat >/bin/freeze-hook <<'END'\n{slow}END\n"));
    gate.hold(Call::Freeze);
    let mut run = start(&program);
    gate.wait(&mut run);
    gate.open();
    wait_until(DEADLINE, "the guest to begin the freeze", || guest.console().contains("KB-FREEZING"));
    gate.kill(&mut run);
    let recovered = program.run(&["recover"]);
    assert_eq!(recovered.code, 0, "{recovered:#?}");
    program.assert_no_leftovers(&guest);
    assert!(!guest.is_frozen());
    assert_eq!(guest.agent_exec("head -n 1 /tmp/hook").stdout, "freeze\n", "the freeze took effect late");
}

#[test]
fn unrecoverable_entry_is_reported_and_kept_in_the_journal() {
    let lab = Lab::new();
    let gate = Gate::new(&lab);
    let guest = lab.guest("not-forgotten").disk(Disk::qcow2("vda")).paused();
    let program = Program::new(&lab).set("libvirt_uri", json!(gate.uri())).domain(guest.name(), json!({}));
    kill_before(&program, &gate, Call::Commit);
    guest.write("vda", 0x81, 1 << 20, 65536);
    // An operator takes a snapshot on top of the overlay that was left.
    let foreign = lab.path("images/not-forgotten/foreign.qcow2");
    let spec = format!("vda,snapshot=external,file={}", foreign.display());
    virsh(&["snapshot-create-as", guest.name(), "--disk-only", "--no-metadata", "--diskspec", &spec]);
    guest.write("vda", 0x82, 2 << 20, 65536);

    let recovered = program.run(&["recover"]);
    assert_eq!(recovered.code, 7, "{recovered:#?}");
    assert!(recovered.stdout.contains("left: ") && recovered.stdout.contains("foreign.qcow2"), "{recovered:#?}");
    let report = program.backup();
    assert_eq!(report.ran.code, 7, "{report:#?}");
    assert_eq!(report.domain(guest.name())["outcome"], "success", "the data that the guest sees is saved anyway");
    let archive = program.unpack(&report, guest.name());
    for (pattern, at) in [("0x81", "1M"), ("0x82", "2M")] {
        let read = format!("read -P {pattern} {at} 64k");
        let disk = archive.disk("vda");
        let told = lab::run("qemu-io", &["-r", "-f", "qcow2", "-c", &read, disk.to_str().unwrap()]);
        assert!(!told.contains("verification failed"), "{told}");
    }

    virsh(&["blockcommit", guest.name(), "vda", "--active", "--shallow", "--pivot", "--wait"]);
    std::fs::remove_file(foreign).unwrap();
    let recovered = program.run(&["recover"]);
    assert_eq!(recovered.code, 0, "{recovered:#?}");
    assert!(recovered.stdout.contains("committed vda back to its base"), "{recovered:#?}");
    program.assert_no_leftovers(&guest);
    guest.assert_holds("vda", 0x81, 1 << 20, 65536);
    guest.assert_holds("vda", 0x82, 2 << 20, 65536);
}
