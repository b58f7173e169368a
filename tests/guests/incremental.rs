//! Only the changed blocks of a guest are read for the next point in a repository, whatever happened to the guest, and
//! a disk whose changes are not known for certain is read whole. The oracle for the contents is restic.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::lab::{DEADLINE, Disk, Guest, Lab, Program, Report, qemu_img, virsh, wait_until};
use crate::steps;
use kvmbackup::sys::step::Step;
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;
/// Granularity of QEMU's bitmaps, and size of our blobs.
const UNIT: u64 = 64 << 10;

struct Scene {
    lab: Lab,
    guest: Guest,
    program: Program,
}

impl Scene {
    /// A running guest with a qcow2 disk and a raw one, and a first restore point.
    fn new(name: &str) -> Scene {
        let scene = Scene::of(name, [Disk::qcow2("vda"), Disk::raw("vdb")], json!({}));
        let disks = scene.backup();
        assert_eq!(disks["vda"]["whole_read"], "first");
        scene
    }

    /// A running guest with these disks.
    fn of(name: &str, disks: impl IntoIterator<Item = Disk>, settings: Value) -> Scene {
        let lab = Lab::new();
        let guest = disks.into_iter().fold(lab.guest(name), |guest, disk| guest.disk(disk)).paused();
        guest.write("vda", 0x11, MIB, 8 * MIB);
        let program = Program::new(&lab).domain(guest.name(), settings).in_repository();
        Scene { lab, guest, program }
    }

    /// Backs up, checks the newest point with restic, and returns the disks of the report by target.
    #[track_caller]
    fn backup(&self) -> Value {
        let report = self.program.backup_well();
        self.expect_saved();
        disks(&report, &self.guest)
    }

    #[track_caller]
    fn expect_saved(&self) {
        let name = self.guest.name();
        let restored = self.lab.path("by-restic");
        self.program.restic(&["restore", "latest", "--host", name, "--target", restored.to_str().unwrap()]);
        for file in fs::read_dir(restored.join(name).join("disks")).unwrap() {
            let saved = file.unwrap().path();
            let contents = self.lab.path("contents");
            self.guest.copy_contents(saved.file_stem().unwrap().to_str().unwrap(), &contents);
            let paths = [&contents, &saved].map(|path| path.to_str().unwrap());
            qemu_img(&["compare", "-f", "raw", "-F", "raw", paths[0], paths[1]]);
            fs::remove_file(contents).unwrap();
        }
        fs::remove_dir_all(restored).unwrap();
    }

    /// Writes to vda, and expects that the next point reads little more than that.
    #[track_caller]
    fn expect_incremental(&self, pattern: u8) {
        self.guest.write("vda", pattern, 3 * MIB, 2 * UNIT);
        self.guest.write("vda", pattern, 20 * MIB + 5000, 100);
        let disks = self.backup();
        expect_changed(&disks, 3 * UNIT);
    }

    fn checkpoints(&self) -> Vec<String> {
        virsh(&["checkpoint-list", self.guest.name(), "--name"]).split_whitespace().map(str::to_owned).collect()
    }

    #[track_caller]
    fn expect_whole(&self, why: &str) {
        let disks = self.backup();
        assert_eq!(disks["vda"]["whole_read"], why, "{disks:#}");
        assert_eq!(disks["vda"]["read_bytes"], disks["vda"]["data_bytes"], "{disks:#}");
    }
}

fn disks(report: &Report, guest: &Guest) -> Value {
    let all = report.domain(guest.name())["disks"].as_array().unwrap().clone();
    all.into_iter().map(|disk| (disk["target"].as_str().unwrap().to_owned(), disk)).collect()
}

#[track_caller]
fn expect_changed(disks: &Value, bytes: u64) {
    let vda = &disks["vda"];
    assert_eq!(vda["whole_read"], Value::Null, "{disks:#}");
    assert_eq!((&vda["changed_bytes"], &vda["read_bytes"]), (&json!(bytes), &json!(bytes)), "{disks:#}");
    assert!(vda["data_bytes"].as_u64().unwrap() >= 8 * MIB, "{disks:#}");
    assert_eq!(disks["vdb"]["whole_read"], "format", "{disks:#}");
}

#[test]
fn running_guest_is_read_only_where_it_changed_and_keeps_one_checkpoint() {
    let scene = Scene::new("incremental");
    virsh(&[
        "checkpoint-create-as",
        scene.guest.name(),
        "--name",
        "foreign",
        "--diskspec",
        "vda",
        "--diskspec",
        "vdb,checkpoint=no",
    ]);
    scene.expect_incremental(0x22);
    scene.expect_incremental(0x33);
    // Discarded blocks changed, and are zeros now: nothing is read.
    scene.guest.qemu_io("vda", &[&format!("discard {} {}", 2 * MIB, UNIT)]);
    let disks = scene.backup();
    assert_eq!((&disks["vda"]["changed_bytes"], &disks["vda"]["read_bytes"]), (&json!(UNIT), &json!(0)), "{disks:#}");
    let disks = scene.backup();
    assert_eq!(disks["vda"]["read_bytes"], 0);
    let (mut ours, foreign): (Vec<_>, Vec<_>) =
        scene.checkpoints().into_iter().partition(|name| name.starts_with("kvmbackup-"));
    assert_eq!((ours.len(), foreign), (1, vec!["foreign".to_owned()]));
    assert!(virsh(&["checkpoint-dumpxml", scene.guest.name(), &ours.remove(0)]).contains("vda"));
    scene.program.restic(&["check", "--read-data"]);
    scene.program.assert_no_leftovers(&scene.guest);
}

#[test]
fn guest_that_was_off_is_read_only_where_it_changed_before_and_after() {
    let scene = Scene::new("incremental-off");
    scene.guest.write("vda", 0x22, 5 * MIB, UNIT);
    scene.guest.destroy();
    let disks = scene.backup();
    expect_changed(&disks, UNIT);
    // What changes while the guest is off is tracked as well.
    scene.guest.write_while_off("vda", 0x33, 6 * MIB, UNIT);
    expect_changed(&scene.backup(), 2 * UNIT);
    scene.guest.start_paused();
    scene.guest.write("vda", 0x44, 7 * MIB, UNIT);
    expect_changed(&scene.backup(), 3 * UNIT);
    scene.expect_incremental(0x55);
    assert_eq!(scene.checkpoints().len(), 1);
}

#[test]
fn disk_whose_changes_are_not_known_is_read_whole_once() {
    let scene = Scene::new("incremental-lost");
    let name = scene.guest.name();
    let again = |why: &str| {
        scene.expect_whole(why);
        scene.expect_incremental(0x33);
        assert_eq!(scene.checkpoints().len(), 1, "after {why}");
    };

    // Somebody deletes the checkpoint, with or without its bitmap.
    for arguments in [&[][..], &["--metadata"]] {
        let checkpoint = scene.checkpoints().remove(0);
        virsh(&[&["checkpoint-delete", name, &checkpoint], arguments].concat());
        scene.guest.write("vda", 0x44, 9 * MIB, UNIT);
        again("no_checkpoint");
    }

    // QEMU is killed: the bitmap is inconsistent.
    scene.guest.destroy();
    scene.guest.start_paused();
    scene.guest.write("vda", 0x55, 11 * MIB, UNIT);
    kill_qemu(&scene.guest);
    scene.expect_whole("refused");
    scene.guest.start_paused();
    again("no_checkpoint");

    // The disk grows.
    virsh(&["blockresize", name, "vda", "100M"]);
    scene.guest.write("vda", 0x66, 90 * MIB, UNIT);
    again("resized");

    // The image is replaced by a copy, which has the same bitmap.
    scene.guest.destroy();
    let image = scene.guest.disk_source("vda").unwrap();
    let copy = image.with_extension("copy");
    fs::copy(&image, &copy).unwrap();
    fs::rename(&copy, &image).unwrap();
    scene.guest.start_paused();
    scene.guest.write("vda", 0x77, 12 * MIB, UNIT);
    again("replaced");
    scene.program.restic(&["check", "--read-data"]);
}

/// Kills the QEMU of a guest, as a power failure would.
fn kill_qemu(guest: &Guest) {
    let pid = fs::read_to_string(format!("/run/libvirt/qemu/{}.pid", guest.name())).unwrap();
    assert!(Command::new("kill").args(["-9", pid.trim()]).status().unwrap().success());
    wait_until(DEADLINE, "the guest to be off", || guest.state() == "shut off");
}

#[test]
fn guest_whose_backup_job_is_refused_is_saved_with_a_snapshot() {
    let scene = Scene::of("incremental-refused", [Disk::qcow2("vda"), Disk::raw("vdb")], json!({}));
    let name = scene.guest.name().to_owned();
    // QEMU has at most one NBD server.
    let server =
        r#"{"execute":"nbd-server-start","arguments":{"addr":{"type":"inet","data":{"host":"127.0.0.1","port":"0"}}}}"#;
    virsh(&["qemu-monitor-command", &name, server]);
    let report = scene.program.backup_well();
    scene.expect_saved();
    let saved = report.domain(&name);
    assert_eq!(saved["method"], "snapshot");
    let reason = saved["method_reason"].as_str().unwrap();
    assert!(reason.starts_with("snapshot: the backup job failed: ") && reason.contains("NBD server"), "{reason}");

    // The next job is possible again.
    virsh(&["qemu-monitor-command", &name, r#"{"execute":"nbd-server-stop"}"#]);
    assert_eq!(scene.program.backup_well().domain(&name)["method"], "pull");
    scene.expect_saved();
    scene.expect_incremental(0x22);

    let scene = Scene::of("incremental-insisting", [Disk::qcow2("vda")], json!({"method": "pull"}));
    let name = scene.guest.name();
    virsh(&["qemu-monitor-command", name, server]);
    assert_eq!(scene.program.backup().domain(name)["outcome"], "failed");

    // Without a job, this disk cannot be saved. A second attempt would fail in the same way.
    let disks = [Disk::qcow2("vda"), Disk::raw("vdb").shareable()];
    let scene = Scene::of("incremental-no-alternative", disks, json!({}));
    let name = scene.guest.name();
    virsh(&["qemu-monitor-command", name, server]);
    let failed = scene.program.run(&["backup"]);
    assert!(failed.code == 1 && failed.stderr.contains("NBD server"), "{failed:#?}");
    assert!(!failed.stderr.contains("starting again"), "{failed:#?}");
}

/// The largest pack of the repository.
fn pack(program: &Program) -> PathBuf {
    let shards = fs::read_dir(program.backups().join("data")).unwrap().map(|shard| shard.unwrap().path());
    let packs = shards.flat_map(|shard| fs::read_dir(shard).unwrap()).map(|pack| pack.unwrap().path());
    packs.max_by_key(|pack| fs::metadata(pack).unwrap().len()).unwrap()
}

/// ID and path of each damaged point.
fn damaged_points(program: &Program) -> Vec<(String, String)> {
    let verified: Value = serde_json::from_str(&program.run(&["verify", "--all", "--json"]).stdout).unwrap();
    let points = verified["points"].as_array().unwrap().iter().filter(|point| point["verdict"] == "damaged");
    points.map(|point| ["id", "path"].map(|key| point[key].as_str().unwrap().to_owned()).into()).collect()
}

#[test]
fn data_that_the_repository_lost_is_stored_again_from_the_guest() {
    let scene = Scene::new("incremental-lost-pack");
    scene.expect_incremental(0x22);
    let program = &scene.program;
    let expect_healed = |removed: &str| {
        let ran = program.run(&["repository", "check", "--repair-from-guests"]);
        assert!(ran.code == 6 && ran.stdout.contains(removed), "{ran:?}");
        assert!(!ran.stdout.contains("repair snapshots"), "{ran:?}");
        assert_eq!(program.run(&["verify", "--all"]).code, 6);
        let disks = scene.backup();
        assert_eq!(disks["vda"]["whole_read"], Value::Null, "{disks:#}");
        // The disks of older points are whole again. The guest does not have their manifests.
        for (point, path) in damaged_points(program) {
            let to = scene.lab.path("salvaged");
            let words = ["restore", scene.guest.name(), "--at", &point, "--salvage", "--to", to.to_str().unwrap()];
            assert_eq!(program.run(&words).code, 6);
            let report: Value = serde_json::from_slice(&fs::read(to.join("salvage.json")).unwrap()).unwrap();
            let files = report["files"].as_array().unwrap();
            let disks: Vec<&Value> = files.iter().filter(|file| file["disk"] != Value::Null).collect();
            assert!(disks.len() == 2 && disks.iter().all(|disk| disk["state"] == "whole"), "{report:#}");
            fs::remove_dir_all(to).unwrap();
            program.restic(&["forget", path.rsplit('/').next().unwrap()]);
        }
        let ran = program.run(&["verify", "--all"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        program.restic(&["check", "--read-data"]);
    };
    fs::remove_file(pack(program)).unwrap();
    expect_healed("0 damaged and 1 missing packs");

    let damaged = pack(program);
    let mut bytes = fs::read(&damaged).unwrap();
    bytes[100] ^= 1;
    fs::write(&damaged, bytes).unwrap();
    if program.restic(&["version"]).starts_with("restic 0.14.") {
        let ran = program.run(&["repository", "check", "--repair-from-guests"]);
        assert!(ran.code == 1 && ran.stderr.contains("Install restic 0.16 or newer"), "{ran:?}");
        assert!(damaged.exists());
    } else {
        expect_healed("1 damaged and 0 missing packs");
    }
}

#[test]
fn disk_whose_base_image_was_written_is_read_whole() {
    let base = Disk::qcow2("vda").file("base.qcow2");
    let lab = Lab::new();
    let maker = lab.guest("incremental-base").disk(base).paused();
    maker.write("vda", 0x11, MIB, 8 * MIB);
    maker.destroy();
    let below = maker.disk_source("vda").unwrap();
    let guest = lab.guest("incremental-above").disk(Disk::qcow2("vda").backing(&below)).paused();
    guest.write("vda", 0x22, 2 * MIB, UNIT);
    let program = Program::new(&lab).domain(guest.name(), json!({})).in_repository();
    let scene = Scene { lab, guest, program };
    scene.expect_whole("first");
    let disks = scene.backup();
    assert_eq!(disks["vda"]["read_bytes"], 0, "{disks:#}");

    // As when an operator updates the template below a guest.
    scene.guest.destroy();
    maker.write_while_off("vda", 0x33, 5 * MIB, UNIT);
    scene.expect_whole("replaced");
}

#[test]
fn disks_of_two_images_that_were_exchanged_are_read_whole() {
    let scene = Scene::of("incremental-exchanged", [Disk::qcow2("vda"), Disk::qcow2("vdb")], json!({}));
    scene.guest.write("vdb", 0x22, 4 * MIB, MIB);
    scene.backup();
    scene.guest.destroy();
    let [a, b] = ["vda", "vdb"].map(|target| scene.guest.disk_source(target).unwrap());
    let aside = a.with_extension("aside");
    for (from, to) in [(&a, &aside), (&b, &a), (&aside, &b)] {
        fs::rename(from, to).unwrap();
    }
    scene.guest.start_paused();
    let disks = scene.backup();
    for target in ["vda", "vdb"] {
        assert_eq!(disks[target]["whole_read"], "replaced", "{disks:#}");
    }
}

#[test]
fn guest_with_internal_snapshots_gets_a_checkpoint_only_if_the_operator_wants_it() {
    let scene = Scene::of("incremental-internal", [Disk::qcow2("vda")], json!({}));
    scene.backup();
    assert_eq!(scene.checkpoints().len(), 1);
    scene.guest.snapshot_inside("before");
    scene.expect_whole("internal_snapshot");
    // So the operator can still go back.
    assert!(scene.checkpoints().is_empty(), "{:?}", scene.checkpoints());
    virsh(&["snapshot-revert", scene.guest.name(), "before", "--paused"]);
    scene.guest.write("vda", 0x22, 3 * MIB, UNIT);
    scene.expect_whole("internal_snapshot");

    let Scene { lab, guest, program } = scene;
    let program = program.domain(guest.name(), json!({"incremental": "always"}));
    let scene = Scene { lab, guest, program };
    scene.expect_whole("no_checkpoint");
    let disks = scene.backup();
    assert_eq!(disks["vda"]["read_bytes"], 0, "{disks:#}");
}

#[test]
fn never_and_snapshots_mean_no_checkpoint() {
    for (keys, why) in [(json!({"incremental": "never"}), "never"), (json!({"method": "snapshot"}), "method")] {
        let scene = Scene::of(&format!("incremental-{why}"), [Disk::qcow2("vda")], keys);
        scene.expect_whole(why);
        scene.expect_whole(why);
        assert!(scene.checkpoints().is_empty());
    }
}

#[test]
fn killed_run_leaves_no_checkpoint_that_the_next_point_does_not_need() {
    let scene = Scene::new("incremental-killed");
    let reached = steps::of(scene.program.command().arg("backup"));
    steps::assert_reached(&reached, &[steps::TRACKED]);
    for step in [Step::PullBegun, Step::DiskRead, Step::PullEnd, Step::ArchiveEnd, Step::CheckpointDelete] {
        scene.guest.write("vda", 0x33, 5 * MIB, 2 * UNIT);
        steps::kill(scene.program.command().arg("backup"), step.into());
        let recovered = scene.program.run(&["recover"]);
        assert_eq!(recovered.code, 0, "{step:?}: {recovered:#?}");
        // The point of a run that is killed when it deletes the old checkpoint is complete, and has a new one.
        let left = if step == Step::CheckpointDelete { 2 } else { 1 };
        assert_eq!(scene.checkpoints().len(), left, "{step:?}");
        scene.program.assert_no_leftovers(&scene.guest);
        let disks = scene.backup();
        assert_eq!(disks["vda"]["whole_read"], Value::Null, "{step:?}: {disks:#}");
        assert_eq!(scene.checkpoints().len(), 1, "{step:?}");
    }
    scene.program.restic(&["check", "--read-data"]);
}

#[test]
fn checkpoints_are_listed_and_removed_from_a_guest_that_runs_or_is_off() {
    let scene = Scene::of("incremental-removed", [Disk::qcow2("vda")], json!({}));
    let name = scene.guest.name();
    virsh(&["checkpoint-create-as", name, "--name", "foreign", "--diskspec", "vda"]);
    let command = |what: &str| {
        let ran = scene.program.run(&["checkpoints", what, name]);
        assert_eq!(ran.code, 0, "{ran:#?}");
        ran.stdout
    };
    assert!(command("list").contains("no checkpoints"));
    scene.backup();
    let ours = scene.checkpoints().into_iter().find(|name| name.starts_with("kvmbackup-")).unwrap();
    assert!(command("list").contains(&format!("{ours}  yes")), "{}", command("list"));
    assert!(command("remove").contains("removed 1 checkpoint;"));
    assert_eq!(scene.checkpoints(), ["foreign"]);

    scene.expect_whole("no_checkpoint");
    scene.guest.destroy();
    assert!(command("list").trim_end().ends_with("yes         vda"), "{}", command("list"));
    command("remove");
    assert_eq!(scene.checkpoints(), ["foreign"]);
    let info = qemu_img(&["info", scene.guest.disk_source("vda").unwrap().to_str().unwrap()]);
    assert!(info.contains("foreign") && !info.contains("kvmbackup-"), "{info}");

    // QEMU was killed: libvirt cannot delete the bitmap, and QEMU cannot use it.
    scene.guest.start_paused();
    virsh(&["checkpoint-delete", name, "foreign"]);
    scene.expect_whole("no_checkpoint");
    scene.guest.destroy();
    scene.guest.start_paused();
    kill_qemu(&scene.guest);
    let image = scene.guest.disk_source("vda").unwrap();
    command("remove");
    // Nothing keeps the operator from changing the guest.
    qemu_img(&["resize", image.to_str().unwrap(), "200M"]);
    assert!(!qemu_img(&["info", image.to_str().unwrap()]).contains("bitmaps"));
    virsh(&["undefine", name]);
}
