//! Forged archives that place a disk anywhere, with correct checksums: of kvmbackup, and of the legacy script.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use serde_json::json;

use crate::host;
use crate::host::{Host, run};

/// The program that wrote an archive, and the item that it claims was at the place.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// kvmbackup: the disk.
    Ours,
    /// kvmbackup: UEFI variables, kernel and state of a TPM. The disk was among the images.
    Beside,
    /// The legacy script: the disk.
    Script,
}

/// Directories of the host in which, and above which, kvmbackup keeps files that it trusts.
pub const FORBIDDEN: [&str; 9] =
    ["state", "state/journal", "state/mail/spool", "hooks", "textfile", "mail", "backups", "backups/web", ""];

/// A directory in which the guest `other` has an image. It exists only if a test creates it.
pub fn listed(at: usize) -> String {
    format!("listed-{at}")
}

/// A host with a guest `other`, whose image marks its directory as one of images, and with archives of the missing
/// domain `web`.
pub struct Forge {
    pub host: Host,
    /// A restore point, and its original bytes.
    archive: PathBuf,
    good: Vec<u8>,
    /// The directory where archives are built.
    bench: tempfile::TempDir,
}

impl Forge {
    pub fn new() -> Forge {
        let mut host = Host::new(&[]);
        let disk = |at: usize| {
            format!(
                "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{}/x.img'/><target dev='vd{}'/></disk>",
                host.path(&listed(at)).display(),
                char::from(b'b' + at as u8)
            )
        };
        let disks: String = (0..FORBIDDEN.len()).map(disk).collect();
        host.add("other", &disks);
        host.add("web", "");
        for folder in ["hooks", "textfile", "mail", "to"] {
            fs::create_dir(host.path(folder)).unwrap();
        }
        let hook = host.script("hooks/note", "");
        for folder in ["state/journal", "state/mail/spool", "images/sub"] {
            fs::create_dir_all(host.path(folder)).unwrap();
        }
        run("chmod", &["-R", "go-rwx", host.path("state").to_str().unwrap()]);
        symlink(host.path("state/journal"), host.path("images/link")).unwrap();
        symlink("/etc/cron.d", host.path("images/cron")).unwrap();
        symlink(host.path("state/ledger.json"), host.path("images/link.qcow2")).unwrap();
        symlink(host.path("state/journal/x.json"), host.path("images/dangling.qcow2")).unwrap();
        host.configure(
            &format!(
                "compression: {{method: none}}\n  metrics: {{textfile: {}}}\n  hooks: [{{name: note, phase: pre-run, command: [{}]}}]\n  \
                 mail: {{to: root, sendmail: /bin/true, templates: {}}}",
                host.path("textfile/kvmbackup.prom").display(),
                hook.display(),
                host.path("mail").display()
            ),
            "{\"*\": {day_of_week: daily}}",
        );
        host.run("backup --force web").ends(0);
        let archive = host.archives("web").pop().unwrap();
        let good = fs::read(&archive).unwrap();
        host.undefine("web");
        // The state directory as every restore leaves it.
        host.run("recover").ends(0);
        Forge { host, archive, good, bench: tempfile::tempdir().unwrap() }
    }

    /// Builds an archive that claims that this item was at `place`, as the only one of `web`.
    pub fn say(&self, kind: Kind, place: &str) {
        let folder = self.archive.parent().unwrap();
        for archive in self.host.archives("web") {
            fs::remove_file(archive).unwrap();
        }
        let parts = self.bench.path().join("parts");
        let _ = fs::remove_dir_all(&parts);
        fs::write(&self.archive, &self.good).unwrap();
        host::unpack(&self.archive, &parts);
        let image = self.host.image("web");
        let fresh = self.host.image("fresh");
        let disk = if let Kind::Beside = kind { fresh.to_str().unwrap() } else { place };
        let forged = |name: &str| {
            let text = fs::read_to_string(parts.join(name)).unwrap();
            let forged = text.replace(image.to_str().unwrap(), disk);
            assert!(name == "domain-migratable.xml" || forged != text, "{name}");
            forged
        };
        let documents = ["domain.xml", "domain-inactive.xml", "domain-migratable.xml"];
        match kind {
            Kind::Ours => {
                for name in ["manifest.json"].iter().chain(&documents) {
                    let text = forged(name);
                    fs::write(parts.join(name), text).unwrap();
                }
                host::pack(&parts, &self.archive, "");
            }
            Kind::Beside => {
                fs::create_dir(parts.join("tpm")).unwrap();
                for member in ["nvram", "kernel", "tpm/state"] {
                    fs::write(parts.join(member), "obeyed").unwrap();
                }
                for name in documents {
                    let loader = "<loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE.fd</loader>";
                    let os = format!("</type>{loader}<kernel>{place}</kernel><nvram>{place}</nvram>");
                    fs::write(parts.join(name), forged(name).replacen("</type>", &os, 1)).unwrap();
                }
                let mut manifest: serde_json::Value = serde_json::from_str(&forged("manifest.json")).unwrap();
                manifest["nvram"] = json!({"member": "nvram", "path": place});
                manifest["boot"] = json!([{"element": "kernel", "member": "kernel", "path": place}]);
                manifest["tpm"] = json!([{"member": "tpm/state", "path": place}]);
                fs::write(parts.join("manifest.json"), manifest.to_string()).unwrap();
                host::pack(&parts, &self.archive, "");
            }
            Kind::Script => {
                fs::remove_file(&self.archive).unwrap();
                let day = self.bench.path().join("2026-11-01");
                let _ = fs::remove_dir_all(&day);
                fs::create_dir(&day).unwrap();
                for name in documents {
                    fs::write(day.join(name.replace("domain", "web")), forged(name)).unwrap();
                }
                fs::copy(image, day.join(place.rsplit('/').next().unwrap())).unwrap();
                let archive = folder.join("web.tar.gz");
                let bench = self.bench.path().to_str().unwrap();
                run("tar", &["-C", bench, "-czf", archive.to_str().unwrap(), "2026-11-01"]);
            }
        }
    }
}
