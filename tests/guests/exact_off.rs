//! A guest that is off is read directly. State changes during the backup harm neither the guest nor the backup.

use std::io::Read;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::lab::{Contents, DEADLINE, Disk, Guest, Lab, Program, Ran, Report, qemu_img, run, save_exactly, sha256};
use serde_json::json;

#[test]
fn every_kind_of_disk_is_saved_exactly() {
    let lab = Lab::new();
    let base = lab.path("base.qcow2");
    qemu_img(&["create", "-q", "-f", "qcow2", base.to_str().unwrap(), "32M"]);
    run("qemu-io", &["-f", "qcow2", "-c", "write -P 0x0f 0 16M", base.to_str().unwrap()]);
    let before = sha256(&base);
    let guest = lab
        .guest("off ünd, 'cold'")
        .disk(Disk::qcow2("vda").file("größe, of: it's.qcow2"))
        .disk(Disk::raw("vdb").size("1000448"))
        .disk(Disk::block("vdc"))
        .disk(Disk::qcow2("vdd").backing(&base))
        .disk(Disk::raw("vde").readonly())
        .disk(Disk::raw("vdf").shareable())
        .disk(Disk::qcow2("vdg").transient())
        .disk(Disk::qcow2("vdh").snapshot("no"))
        .disk(Disk::cdrom("sdx"))
        .define();
    let targets = ["vda", "vdb", "vdc", "vdd", "vde", "vdf", "vdg", "vdh"];
    for (pattern, target) in (1..).zip(targets) {
        guest.write_while_off(target, pattern, 65536 - 512, 70_144);
    }
    // The method for a running domain does not affect one that is off.
    save_exactly(&lab, &guest, json!({"method": "snapshot"}), &targets);
    assert_eq!(sha256(&base), before, "the base was written to");
}

#[test]
fn disks_that_only_qemu_can_read_are_missing_and_named() {
    let lab = Lab::new();
    let network = "<disk type='network' device='disk'><driver name='qemu' type='raw'/>\
                   <source protocol='nbd' name=''><host transport='unix' socket='/nowhere'/></source>\
                   <target dev='vdc' bus='virtio'/></disk>";
    let guest = lab.guest("off-unreadable").disk(Disk::qcow2("vda")).disk(Disk::luks("vdb")).devices(network).define();
    guest.write_while_off("vda", 0x0a, 1 << 20, 65536);
    let contents = Contents::of(&lab, &guest, &["vda"]);
    let program = Program::new(&lab).domain(guest.name(), json!({"allow_plaintext": true}));
    let report = program.backup();
    assert_eq!(report.ran.code, 1);
    assert_eq!(report.domain(guest.name())["outcome"], "partial");
    for target in ["vdb", "vdc"] {
        let skipped = report.skipped(guest.name(), target);
        assert_eq!(skipped["missed"], true);
        assert_eq!(skipped["hint"], "Back it up while the domain runs.");
    }
    contents.assert_saved_in(&program.unpack(&report, guest.name()));
    program.assert_no_leftovers(&guest);
}

#[test]
fn guest_that_starts_while_it_is_read_is_backed_up_running() {
    let lab = Lab::new();
    let guest = lab.guest("off-started").disk(random(&lab)).define();
    let program = Program::new(&lab).domain(guest.name(), json!({}));
    let stopped = Stopped::amidst_reading(&program);
    guest.start_paused();
    write_where_it_was_read_and_where_it_was_not(&guest);
    let contents = Contents::of(&lab, &guest, &["vda"]);
    let report = stopped.go_on();

    assert_eq!(report.ran.code, 0, "{report:#?}");
    let outcome = report.domain(guest.name());
    assert_eq!((&outcome["method"], &outcome["consistency"]), (&json!("snapshot"), &json!("crash")), "{outcome:#}");
    contents.assert_saved_in(&program.unpack(&report, guest.name()));
    assert_eq!(guest.state(), "paused");
    program.assert_no_leftovers(&guest);
    contents.assert_still_on(&guest);
}

#[test]
fn guest_that_starts_and_stops_while_it_is_read_is_read_again() {
    let lab = Lab::new();
    let guest = lab.guest("off-and-on").disk(random(&lab)).define();
    read_twice(&lab, &guest);
}

/// Writes to a device do not change its size.
#[test]
fn guest_on_a_block_device_that_starts_and_stops_while_it_is_read_is_read_again() {
    let lab = Lab::new();
    let guest = lab.guest("off-and-on-device").disk(Disk::block("vda").file(random_file(&lab))).define();
    read_twice(&lab, &guest);
}

/// The image that the definition names is not written then.
#[test]
fn guest_with_a_data_file_that_starts_and_stops_while_it_is_read_is_read_again() {
    let lab = Lab::new();
    let data = random_file(&lab);
    let random = std::fs::read(&data).unwrap();
    let image = lab.path("random/image.qcow2");
    let options = format!("data_file={},data_file_raw=on,preallocation=metadata", data.display());
    let size = SIZE.to_string();
    qemu_img(&["create", "-q", "-f", "qcow2", "-o", &options, image.to_str().unwrap(), &size]);
    std::fs::write(&data, random).unwrap();
    // libvirt gives the image to QEMU's user, but not the data file.
    run("chmod", &["a+rw", data.to_str().unwrap()]);
    let guest = lab.guest("off-and-on-data").disk(Disk::qcow2("vda").file(image)).define();
    read_twice(&lab, &guest);
}

fn read_twice(lab: &Lab, guest: &Guest) {
    let program = Program::new(lab).domain(guest.name(), json!({}));
    let stopped = Stopped::amidst_reading(&program);
    guest.start_paused();
    write_where_it_was_read_and_where_it_was_not(guest);
    guest.destroy();
    let contents = Contents::of(lab, guest, &["vda"]);
    let report = stopped.go_on();

    assert_eq!(report.ran.code, 0, "{report:#?}");
    assert_eq!(report.domain(guest.name())["consistency"], "offline");
    contents.assert_saved_in(&program.unpack(&report, guest.name()));
    program.assert_no_leftovers(guest);
    contents.assert_still_on(guest);
}

const SIZE: u64 = 48 << 20;

/// A raw file full of incompressible bytes, so that reading takes a while.
fn random_file(lab: &Lab) -> std::path::PathBuf {
    let folder = lab.path("random");
    std::fs::create_dir(&folder).unwrap();
    let file = folder.join("image.raw");
    run("sh", &["-c", "head -c \"$1\" /dev/urandom >\"$2\"", "sh", &SIZE.to_string(), file.to_str().unwrap()]);
    file
}

/// The same as a qcow2 disk.
fn random(lab: &Lab) -> Disk {
    let raw = random_file(lab);
    let image = raw.with_extension("qcow2");
    qemu_img(&["convert", "-f", "raw", "-O", "qcow2", raw.to_str().unwrap(), image.to_str().unwrap()]);
    Disk::qcow2("vda").file(image)
}

fn write_where_it_was_read_and_where_it_was_not(guest: &Guest) {
    guest.write("vda", 0x0a, 0, 1 << 20);
    guest.write("vda", 0x0b, SIZE - (1 << 20), 1 << 20);
}

/// A run that is stopped while it reads a disk of [`SIZE`] bytes: it has read the first byte and not the last.
struct Stopped(Child);

impl Stopped {
    /// No event marks this moment, so the test polls often and starts again if the run got too far.
    fn amidst_reading(program: &Program) -> Self {
        let began = Instant::now();
        while began.elapsed() < DEADLINE {
            let mut command = program.command();
            let mut stopped = Stopped(command.args(["backup", "--json"]).stdout(Stdio::piped()).spawn().unwrap());
            let mut ended = false;
            while written(program) < SIZE / 8 && !ended {
                sleep(Duration::from_millis(1));
                ended = stopped.0.try_wait().unwrap().is_some();
            }
            if !ended {
                stopped.signal("STOP");
                if (SIZE / 8..SIZE / 2).contains(&written(program)) {
                    return stopped;
                }
            }
            drop(stopped);
            assert_eq!(program.run(&["recover"]).code, 0);
            std::fs::remove_dir_all(program.backups()).unwrap();
        }
        panic!("no run could be stopped during the read");
    }

    /// Lets it finish.
    fn go_on(mut self) -> Report {
        self.signal("CONT");
        let mut text = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        let code = self.0.wait().unwrap().code().unwrap_or(-1);
        Report::from(Ran { code, stdout: text, stderr: String::new() })
    }

    fn signal(&self, name: &str) {
        run("kill", &["-s", name, &self.0.id().to_string()]);
    }
}

/// Size of the archive that is being written.
fn written(program: &Program) -> u64 {
    let files = |folder| std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let archives = files(program.backups()).flat_map(files);
    let partial = archives.filter(|file| file.extension().is_some_and(|suffix| suffix == "part"));
    partial.filter_map(|file| std::fs::metadata(file).ok()).map(|metadata| metadata.len()).sum()
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
