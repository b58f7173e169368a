//! A guest that writes continuously is backed up again and again; neither it nor a backup is harmed.

use crate::lab::{DEADLINE, Disk, Lab, Program, Unpacked, qemu_img, run, try_run, wait_until};
use serde_json::json;

/// Panics unless a saved disk contains an intact file system in which the writer's own checksums match.
fn assert_sound(lab: &Lab, archive: &Unpacked, target: &str, frozen: bool) {
    let [raw, files] = [lab.path("saved.raw"), lab.path("saved")].map(|path| path.to_str().unwrap().to_owned());
    let disk = archive.disk(target);
    qemu_img(&["convert", "-f", "qcow2", "-O", "raw", disk.to_str().unwrap(), &raw]);
    if !frozen {
        // As after a power cut: replay the journal first. 1 is "corrected".
        let replay = try_run("e2fsck", &["-E", "journal_only", "-p", &raw]);
        assert!(matches!(replay.status.code(), Some(0 | 1)), "{replay:?}");
    }
    run("e2fsck", &["-f", "-n", &raw]);
    run("mkdir", &["-p", &files]);
    run("debugfs", &["-R", &format!("rdump /writer {files}"), &raw]);
    let check = run("sh", &["-c", "cd \"$1/writer\" && sha256sum --strict -c SUMS", "sh", &files]);
    assert!(check.lines().count() > 0);
    run("rm", &["-r", &raw, &files]);
}

#[test]
fn guest_that_writes_continuously_is_backed_up_by_each_method_frozen_or_not() {
    is_backed_up(4);
}

#[test]
#[ignore = "soak: twenty backups of a guest that writes continuously"]
fn guest_that_writes_continuously_is_backed_up_twenty_times() {
    is_backed_up(20);
}

fn is_backed_up(rounds: usize) {
    let lab = Lab::new();
    let disks = [Disk::qcow2("vda").size("64M"), Disk::raw("sda").size("64M")];
    let guest = disks.into_iter().fold(lab.guest("writes"), |guest, disk| guest.disk(disk)).system("kb.writer").boot();
    let mut newest = ["vda", "sda"].map(|target| {
        let begun = || guest.agent_exec(&format!("grep -c . /mnt/{target}/writer/SUMS")).stdout != "0\n";
        wait_until(DEADLINE, "the writer's first file", begun);
        guest.check_writer_sums(target)
    });
    for round in 0..rounds {
        let method = if round % 2 == 0 { "snapshot" } else { "pull" };
        // The last two are crash-consistent.
        let frozen = round + 2 < rounds;
        let quiesce = if frozen { "require" } else { "never" };
        let program = Program::new(&lab).domain(
            guest.name(),
            json!({"method": method, "quiesce": quiesce, "compression": {"method": "none"}, "keep": {"last": 3}}),
        );
        let report = program.backup_well();
        assert_eq!(report.domain(guest.name())["method"], method);
        program.assert_no_leftovers(&guest);
        newest = [("vda", newest[0]), ("sda", newest[1])].map(|(target, before)| {
            let mut now = before;
            wait_until(DEADLINE, "the writer to go on", || {
                now = guest.check_writer_sums(target);
                now > before
            });
            now
        });
        if round + 4 >= rounds {
            let archive = program.unpack(&report, guest.name());
            assert_sound(&lab, &archive, "vda", frozen);
            assert_sound(&lab, &archive, "sda", frozen);
        }
    }

    // It is restored beside the one that still writes, under its own name.
    let program = Program::new(&lab).domain(guest.name(), json!({}));
    let to = lab.path("restored");
    let restored =
        program.run(&["restore", "writes", "--define", "--name", "restored", "--start", "--to", to.to_str().unwrap()]);
    assert_eq!(restored.code, 0, "{restored:#?}");
    let copy = lab.adopt("restored");
    copy.wait_ready();
    for target in ["vda", "sda"] {
        assert!(copy.disk_source(target).unwrap().starts_with(&to));
        let listed = copy.agent_exec(&format!("grep -c . /mnt/{target}/writer/SUMS"));
        assert_ne!(listed.stdout, "0\n", "{listed:?}");
        copy.check_writer_sums(target);
    }
    copy.destroy();

    guest.shutdown();
    for target in ["vda", "sda"] {
        let raw = lab.path("end.raw");
        guest.copy_contents(target, &raw);
        run("e2fsck", &["-f", "-n", raw.to_str().unwrap()]);
        std::fs::remove_file(raw).unwrap();
    }
}
