//! After SIGKILL at any point, the next start recovers what was left and continues.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};

use crate::lab::{Call, DEADLINE, Disk, Gate, Guest, Lab, Program, run, virsh, wait_until};
use serde_json::json;

/// A paused guest with two disks, and the program behind a gate.
struct Scene {
    guest: Guest,
    method: &'static str,
    gate: Gate,
    lab: Lab,
}

impl Scene {
    fn new(name: &str, method: &'static str) -> Scene {
        let lab = Lab::new();
        let random = lab.path("random/vda.raw");
        fs::create_dir(lab.path("random")).unwrap();
        run("dd", &["if=/dev/urandom", &format!("of={}", random.display()), "bs=1M", "count=64", "status=none"]);
        let disks = lab.guest(name).disk(Disk::raw("vda").file(random)).disk(Disk::qcow2("sda"));
        Scene::of(lab, disks.paused(), method)
    }

    fn of(lab: Lab, guest: Guest, method: &'static str) -> Scene {
        let gate = Gate::new(&lab);
        Scene { guest, method, gate, lab }
    }

    fn program(&self) -> Program {
        self.compressing(1)
    }

    fn compressing(&self, level: u8) -> Program {
        let keys = json!({"method": self.method, "compression": {"method": "zstd", "level": level}});
        Program::new(&self.lab).set("libvirt_uri", json!(self.gate.uri())).domain(self.guest.name(), keys)
    }

    /// Kills a backup right before this call.
    fn kill_before(&self, call: Call) {
        self.gate.hold(call);
        let mut run = start(&self.program());
        self.gate.wait(&mut run);
        self.gate.kill(&mut run);
    }

    /// Kills a backup while it reads.
    fn kill_while_it_reads(&self) {
        // The high level slows it down, so that there is time while it reads.
        let program = self.compressing(19);
        let mut run = start(&program);
        wait_until(DEADLINE, "the first bytes of the archive", || {
            assert!(run.try_wait().unwrap().is_none(), "the backup has already ended");
            unfinished(&program.backups()).iter().any(|(_, bytes)| *bytes > 0)
        });
        self.gate.kill(&mut run);
        wait_until(DEADLINE, "the program's servers to end", || servers(&self.lab) == 0);
    }

    fn overlay_is_in_place(&self) -> bool {
        self.guest.live_xml().contains(".kvmbackup-")
    }

    /// `kvmbackup recover` recovers something, and has nothing left to do the second time.
    fn recover(&self) {
        let first = self.program().run(&["recover"]);
        assert_eq!(first.code, 0, "{first:#?}");
        let interrupted = format!("recovered: {}: the run of ", self.guest.name());
        assert!(first.stdout.starts_with(&interrupted), "{first:#?}");
        let second = self.program().run(&["recover"]);
        assert!(second.code == 0 && second.stdout.starts_with("no interrupted run in "), "{second:#?}");
    }

    /// The next backup reports what it recovered, and is good.
    fn back_up_after_recovery(&self) {
        let report = self.program().backup_well();
        let recovered = report.json["recovered"].as_array().unwrap();
        assert_eq!(recovered.len(), 1, "{report:#?}");
        assert!(recovered[0].as_str().unwrap().starts_with(self.guest.name()), "{report:#?}");
        self.program().unpack(&report, self.guest.name());
        self.program().assert_no_leftovers(&self.guest);
        assert_eq!(servers(&self.lab), 0);
    }
}

fn start(program: &Program) -> Child {
    let run = program.command().arg("backup").stdout(Stdio::null()).stderr(Stdio::inherit()).spawn();
    run.expect("cannot run kvmbackup")
}

/// Archives under their temporary names, with their lengths.
fn unfinished(backups: &Path) -> Vec<(String, u64)> {
    if !backups.exists() {
        return vec![];
    }
    let found = run("find", &[backups.to_str().unwrap(), "-name", "*.part", "-printf", "%p %s\n"]);
    found.lines().filter_map(|line| line.rsplit_once(' ')).map(|(p, n)| (p.to_owned(), n.parse().unwrap())).collect()
}

/// Number of `qemu-nbd` processes that serve images of this lab.
fn servers(lab: &Lab) -> usize {
    let lines =
        fs::read_dir("/proc").unwrap().flatten().filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).into_owned());
    lines.filter(|line| line.contains("qemu-nbd\0") && line.contains(lab.dir().to_str().unwrap())).count()
}

#[test]
fn snapshot_backup_killed_at_any_point_is_committed_by_the_next_run() {
    let scene = Scene::new("killed-snapshot", "snapshot");
    for (number, call) in [None, Some(Call::Snapshot), Some(Call::Commit), Some(Call::Pivot)].into_iter().enumerate() {
        match call {
            Some(call) => scene.kill_before(call),
            None => scene.kill_while_it_reads(),
        }
        assert_eq!(scene.overlay_is_in_place(), call != Some(Call::Snapshot), "{call:?}");
        let (pattern, offset) = (0x11 + number as u8, (number as u64) << 20);
        scene.guest.write("vda", pattern, offset, 65536);
        scene.guest.write("sda", pattern, offset, 65536);
        scene.back_up_after_recovery();
        scene.guest.assert_holds("vda", pattern, offset, 65536);
        scene.guest.assert_holds("sda", pattern, offset, 65536);
    }
}

#[test]
fn pull_backup_killed_at_any_point_is_ended_by_the_next_run() {
    let scene = Scene::new("killed-pull", "pull");
    for call in [None, Some(Call::BeginPull), Some(Call::EndPull)] {
        match call {
            Some(call) => scene.kill_before(call),
            None => scene.kill_while_it_reads(),
        }
        let job = virsh(&["domjobinfo", scene.guest.name()]);
        assert_eq!(job.contains("Backup"), call != Some(Call::BeginPull), "{call:?}: {job}");
        scene.guest.write("vda", 0x22, 1 << 20, 65536);
        scene.back_up_after_recovery();
        scene.guest.assert_holds("vda", 0x22, 1 << 20, 65536);
    }
}

#[test]
fn guest_killed_with_its_backup_is_returned_to_its_base() {
    let scene = Scene::new("killed-guest", "snapshot");
    for (pattern, restarted) in [(0x31, false), (0x32, true)] {
        scene.kill_before(Call::Commit);
        scene.guest.write("vda", pattern, 1 << 20, 65536);
        scene.guest.write("sda", pattern, 1 << 20, 65536);
        scene.guest.destroy();
        assert!(scene.guest.inactive_xml().contains(".kvmbackup-"), "the definition is on the overlay");
        if restarted {
            scene.guest.start_paused();
        }
        scene.recover();
        scene.program().assert_no_leftovers(&scene.guest);
        scene.guest.assert_holds("vda", pattern, 1 << 20, 65536);
        scene.guest.assert_holds("sda", pattern, 1 << 20, 65536);
        if !restarted {
            scene.guest.start_paused();
        }
    }
}

#[test]
fn killed_recovery_is_completed_by_the_next() {
    let scene = Scene::new("killed-twice", "snapshot");
    scene.kill_before(Call::Commit);
    scene.guest.write("vda", 0x41, 1 << 20, 65536);
    scene.guest.destroy();
    scene.gate.hold(Call::DefineDisk);
    let mut recovery = scene.program().command().arg("recover").spawn().unwrap();
    scene.gate.wait(&mut recovery);
    scene.gate.kill(&mut recovery);
    scene.recover();
    scene.program().assert_no_leftovers(&scene.guest);
    scene.guest.assert_holds("vda", 0x41, 1 << 20, 65536);
}

#[test]
fn overlay_with_the_last_writes_of_an_undefined_guest_is_left_to_the_operator() {
    let scene = Scene::new("killed-undefined", "snapshot");
    let bases = ["vda", "sda"].map(|target| scene.guest.disk_source(target).unwrap());
    scene.kill_before(Call::Commit);
    let overlays = ["vda", "sda"].map(|target| scene.guest.disk_source(target).unwrap());
    scene.guest.write("vda", 0x51, 1 << 20, 65536);
    scene.guest.destroy();
    virsh(&["undefine", scene.guest.name()]);
    let refused = scene.program().run(&["recover"]);
    assert_eq!(refused.code, 7, "{refused:#?}");
    assert!(refused.stdout.contains(overlays[0].to_str().unwrap()), "{refused:#?}");
    assert!(refused.stdout.contains("qemu-img commit"), "{refused:#?}");
    assert_eq!(overlays.each_ref().map(|overlay| overlay.exists()), [true, false], "that of sda is empty");
    run("qemu-img", &["commit", "-q", overlays[0].to_str().unwrap()]);
    fs::remove_file(&overlays[0]).unwrap();
    scene.recover();
    let read = run("qemu-io", &["-r", "-f", "raw", "-c", "read -P 0x51 1M 64k", bases[0].to_str().unwrap()]);
    assert!(read.contains("read 65536/65536") && !read.contains("verification failed"), "{read}");
}

#[test]
fn commit_started_by_another_program_is_finished() {
    let scene = Scene::new("killed-commit", "snapshot");
    scene.kill_before(Call::Commit);
    scene.guest.write("vda", 0x61, 0, 4 << 20);
    virsh(&["blockcommit", scene.guest.name(), "vda", "--active", "--shallow", "--bytes", "--bandwidth", "1048576"]);
    assert!(scene.guest.live_xml().contains("<mirror"), "the commit is in progress");
    scene.recover();
    scene.program().assert_no_leftovers(&scene.guest);
    scene.guest.assert_holds("vda", 0x61, 0, 4 << 20);
}

#[test]
fn recover_without_a_configuration_uses_the_usual_state_directory_and_reports_it() {
    let lab = Lab::new();
    let program = Program::new(&lab);
    fs::write(program.config(), "lab: {backupdr: /nowhere}\n").unwrap();
    let ran = program.run(&["recover"]);
    assert_eq!(ran.code, 2, "no hint at another state directory: {ran:#?}");
    assert_eq!(ran.stdout, "no interrupted run in /var/lib/kvmbackup\n");
    assert!(
        ran.stderr.contains("backupdr")
            && ran.stderr.contains("using /var/lib/kvmbackup, which may not be the configured"),
        "{ran:#?}"
    );
}
