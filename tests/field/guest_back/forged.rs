//! Another user may write to the directory of the images, for example QEMU's own. Recovery must not write to or read a
//! file of root because of files placed there.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::Scene;
use crate::lab::{Disk, Program, qemu_img, run};

const SIZE: u64 = 64 << 20;

/// A guest that is off, on an overlay of a killed backup, and a file of root.
struct Forged {
    scene: Scene,
    base: PathBuf,
    overlay: PathBuf,
    precious: PathBuf,
}

impl Forged {
    fn new(name: &str) -> Forged {
        let scene = Scene::new(name);
        let base = scene.guest.disk_source("vda").unwrap();
        scene.kill();
        scene.guest.write("vda", 0x11, 1 << 20, 65536);
        let overlay = scene.guest.disk_source("vda").unwrap();
        scene.guest.destroy();
        let precious = scene.lab.path("precious");
        fs::write(&precious, "file of root's\n").unwrap();
        fs::File::options().write(true).open(&precious).unwrap().set_len(SIZE).unwrap();
        Forged { scene, base, overlay, precious }
    }

    fn text(&self) -> [&str; 3] {
        [&self.base, &self.overlay, &self.precious].map(|path| path.to_str().unwrap())
    }

    /// Recovery leaves the overlay to the operator, and the file of root unchanged.
    fn assert_refused(&self, words: &str) {
        let before = crate::lab::sha256(&self.precious);
        let said = self.scene.recovery_refuses(words);
        assert!(said.contains("hint: "), "{said}");
        assert_eq!(crate::lab::sha256(&self.precious), before);
        assert!(self.overlay.exists() && self.scene.guest.inactive_xml().contains(self.overlay.to_str().unwrap()));
    }

    /// With the original files in place, recovery brings the guest back.
    fn assert_recovers(&self) {
        self.scene.recover();
        self.scene.guest.start_paused();
        self.scene.guest.assert_holds("vda", 0x11, 1 << 20, 65536);
    }
}

#[test]
fn replaced_overlay_is_left_to_the_operator() {
    let forged = Forged::new("forged-other");
    let [_, overlay, precious] = forged.text();
    let own = forged.scene.lab.path("own");
    fs::rename(overlay, &own).unwrap();
    qemu_img(&["create", "-q", "-u", "-f", "qcow2", "-b", precious, "-F", "raw", overlay, "64M"]);
    run("qemu-io", &["-f", "qcow2", "-c", "write -P 0x41 0 64k", overlay]);
    // Its writes may not have reached the file below it.
    assert!(fs::read(precious).unwrap().starts_with(b"file of root's"));
    forged.assert_refused("is not the same file as during the backup");
    // An empty file does not count as an unused overlay.
    fs::write(overlay, "").unwrap();
    forged.assert_refused("is not the same file as during the backup");
    fs::rename(own, overlay).unwrap();
    forged.assert_recovers();
}

#[test]
fn overlay_with_a_rewritten_header_is_left_to_the_operator() {
    let forged = Forged::new("forged-header");
    let [base, overlay, precious] = forged.text();
    let rebase = |below, format| qemu_img(&["rebase", "-u", "-f", "qcow2", "-b", below, "-F", format, overlay]);
    rebase(precious, "raw");
    forged.assert_refused("not over the image of the backup");
    rebase(base, "qcow2");
    forged.assert_recovers();
}

#[test]
fn base_replaced_by_a_link_to_another_file_is_left_to_the_operator() {
    let forged = Forged::new("forged-link");
    let [base, _, precious] = forged.text();
    let own = forged.scene.lab.path("own");
    fs::rename(base, &own).unwrap();
    symlink(precious, base).unwrap();
    forged.assert_refused(".qcow2 is not the same file as during the backup");
    fs::remove_file(base).unwrap();
    fs::rename(own, base).unwrap();
    forged.assert_recovers();
}

#[test]
fn image_that_names_a_data_file_is_left_to_the_operator() {
    for (name, of_base) in [("forged-data", false), ("forged-data-base", true)] {
        let forged = Forged::new(name);
        let [base, overlay, precious] = forged.text();
        let own = forged.scene.lab.path("own");
        let image = if of_base { base } else { overlay };
        fs::copy(image, &own).unwrap();
        name_data_file(Path::new(image), &forged.scene.lab.path("other"), precious, &forged.base, of_base);
        forged.assert_refused("names the data file");
        fs::write(image, fs::read(&own).unwrap()).unwrap();
        forged.assert_recovers();
    }
}

/// Writes an image into the existing file of another; its data is in a file with any name.
fn name_data_file(image: &Path, at: &Path, data: &str, base: &Path, is_base: bool) {
    let (at_text, made) = (at.to_str().unwrap(), at.with_extension("data"));
    let option = format!("data_file={}", made.display());
    let mut words = vec!["create", "-q", "-f", "qcow2", "-o", &option];
    if !is_base {
        words.extend(["-b", base.to_str().unwrap(), "-F", "qcow2"]);
    }
    words.extend([at_text, "64M"]);
    qemu_img(&words);
    run("qemu-io", &["-f", "qcow2", "-c", "write -P 0x41 0 64k", at_text]);
    qemu_img(&["amend", "-f", "qcow2", "-o", &format!("data_file={data}"), at_text]);
    fs::write(image, fs::read(at).unwrap()).unwrap();
}

#[test]
fn guest_that_is_off_is_not_read_from_files_that_only_an_image_header_names() {
    let scene = Scene::with("forged-off", |guest| guest.disk(Disk::qcow2("vda")));
    scene.guest.destroy();
    let image = scene.guest.disk_source("vda").unwrap();
    let secret = scene.lab.path("secret");
    fs::write(&secret, vec![0x53; 65536]).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let rebase = |below: &str, format: &str| {
        qemu_img(&["rebase", "-u", "-f", "qcow2", "-b", below, "-F", format, image.to_str().unwrap()]);
    };
    rebase(secret.to_str().unwrap(), "raw");
    // A file that root has put there may be read by root.
    scene.program.backup_well();
    run("chown", &["nobody", image.to_str().unwrap()]);
    assert_not_read(&scene.program, "which the owner of the image cannot read");
    let json =
        format!("json:{{\"driver\":\"raw\",\"file\":{{\"driver\":\"file\",\"filename\":\"{}\"}}}}", secret.display());
    rebase(&json, "raw");
    assert_not_read(&scene.program, "which is not a file of known format");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).unwrap();
    rebase(secret.to_str().unwrap(), "raw");
    scene.program.backup_well();
}

fn assert_not_read(program: &Program, words: &str) {
    let ran = program.run(&["backup", "--force"]);
    assert!(ran.code != 0 && ran.stdout.contains(words) && ran.stdout.contains("hint: "), "{ran:#?}");
}

#[test]
fn entry_of_an_earlier_release_is_left_to_the_operator_or_to_the_guest() {
    let forged = Forged::new("forged-old");
    let journal = fs::read_dir(forged.scene.program.state().join("journal")).unwrap().next().unwrap().unwrap().path();
    let mut entry: serde_json::Value = serde_json::from_slice(&fs::read(&journal).unwrap()).unwrap();
    assert!(entry["overlays"][0]["marks"].is_object(), "{entry:#}");
    entry["overlays"][0].as_object_mut().unwrap().remove("marks");
    fs::write(&journal, serde_json::to_vec(&entry).unwrap()).unwrap();
    forged.assert_refused("virsh start");
    forged.scene.guest.start_paused();
    forged.scene.recover();
    forged.scene.guest.assert_holds("vda", 0x11, 1 << 20, 65536);
}
