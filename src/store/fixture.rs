//! Restore points of generated disks for the tests of the engine. Must not need a guest.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use uuid::Uuid;

use super::{
    Access, BootEntry, DOMAIN_INACTIVE_XML, DOMAIN_MIGRATABLE_XML, DOMAIN_XML, DiskEntry, DiskSource, Error, FORMAT,
    FileEntry, Intent, Location, Manifest, Point, PointWriter, Sink, Store, disk_member,
};
use crate::model::{
    Codec, Consistency, DomainRef, DomainState, Extent, Format, Method, NewId, PointId, SkippedDisk, Source, StoreKind,
};
use crate::qcow2::whole_clusters;
use crate::sys::patience::Patience;
use crate::sys::secret::Secret;
use crate::sys::signals::Cancel;

pub const MIB: u64 = 1 << 20;
pub const DOMAIN: &str = "web 1";
pub const UUID: Uuid = Uuid::from_u128(0x11111111_2222_4333_8444_555555555555);

/// A disk with generated data in its extents, and a raw file with the same contents.
pub struct Disk {
    pub target: &'static str,
    pub source: Source,
    pub format: Format,
    pub size: u64,
    pub raw: PathBuf,
    extents: Vec<Extent>,
}

/// The raw file, read as in a backup.
pub struct Raw<'a>(&'a Disk);

impl Disk {
    pub fn source(&self) -> Raw<'_> {
        Raw(self)
    }
}

impl DiskSource for Raw<'_> {
    type Error = Error;

    fn size(&self) -> u64 {
        self.0.size
    }

    fn extents(&mut self) -> Vec<Extent> {
        self.0.extents.clone()
    }

    fn read(&mut self, extents: &[Extent], sink: &mut Sink<'_, Error>) -> Result<(), Error> {
        let contents = File::open(&self.0.raw).unwrap();
        extents.iter().try_for_each(|extent| {
            let mut bytes = vec![0; extent.length as usize];
            contents.read_exact_at(&mut bytes, extent.offset).unwrap();
            sink(extent.offset, &bytes)
        })
    }
}

/// A store in a temporary directory.
pub struct Fixture {
    pub dir: TempDir,
    pub store: Store,
}

impl Fixture {
    pub fn new() -> Fixture {
        // Not a hidden directory like the default: restoring an image to a hidden directory needs a confirmation.
        let dir = tempfile::Builder::new().prefix("kvmbackup-").tempdir().unwrap();
        std::fs::create_dir(dir.path().join("backup")).unwrap();
        let store = Store::at(&dir.path().join("backup"), &Patience::default()).unwrap();
        Fixture { dir, store }
    }

    /// The same with a new repository.
    pub fn with_repository() -> Fixture {
        let fixture = Fixture::new();
        std::fs::write(fixture.path("password"), "a password\n").unwrap();
        let place = fixture.repository();
        Store::init(place.clone(), &Patience::default()).unwrap();
        Fixture { store: Store::at(place, &Patience::default()).unwrap(), ..fixture }
    }

    /// The same with a second, empty target of the other kind.
    pub fn with_second(self) -> Fixture {
        let patience = Patience::default();
        let dir = self.path("second");
        let location = match self.store.kind() {
            StoreKind::Archive => {
                std::fs::write(self.path("password"), "a password\n").unwrap();
                Location { dir, ..self.repository() }
            }
            StoreKind::Repository => (&dir).into(),
        };
        match location.repository {
            Some(_) => drop(Store::init(location.clone(), &patience).unwrap()),
            None => std::fs::create_dir(&location.dir).unwrap(),
        }
        let second = Store::at(location, &patience).unwrap();
        Fixture { store: self.store.beside(second), dir: self.dir }
    }

    /// The store, opened again.
    pub fn opened(&self, patience: &Patience) -> Store {
        let place = match self.path("backup/config").is_file() {
            true => self.repository(),
            false => (&self.path("backup")).into(),
        };
        Store::unopened(place, patience)
    }

    /// The place of the repository.
    pub fn repository(&self) -> Location {
        let access = Access {
            bucket: None,
            password: Secret::File(self.path("password")),
            cache_dir: self.path("cache"),
            blob_size: None,
        };
        Location { dir: self.path("backup"), repository: Some(access) }
    }

    /// Begins a restore point.
    pub fn begin(&self, time: &str, codec: Codec) -> PointWriter {
        let intent = Intent { id: NewId::Taken(time.parse().unwrap()), codec, threads: 2, cancel: Cancel::default() };
        let domain = DomainRef { name: DOMAIN.to_owned(), uuid: UUID };
        self.store.begin(&domain, &intent, |_| Ok::<_, Error>(())).unwrap()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn disk(
        &self,
        target: &'static str,
        source: &str,
        format: Format,
        (size, extents): (u64, &[(u64, u64)]),
    ) -> Disk {
        let raw = self.path(&format!("{target}.contents"));
        let file = File::create(&raw).unwrap();
        file.set_len(size).unwrap();
        let extents: Vec<Extent> = extents.iter().map(|&(offset, length)| Extent { offset, length }).collect();
        for (seed, extent) in (1u64..).zip(&extents) {
            // Half of it is zeros, because blocks of zeros become holes.
            let byte = |n: u64| if n / 70_000 % 2 == 1 { 0 } else { (n * seed % 251 + 1) as u8 };
            let bytes: Vec<u8> = (0..extent.length).map(byte).collect();
            file.write_all_at(&bytes, extent.offset).unwrap();
        }
        let source = Source::File(self.path(source));
        Disk { target, source, format, size, raw, extents: whole_clusters(size, &extents).unwrap() }
    }

    pub fn usual_disks(&self) -> Vec<Disk> {
        vec![
            self.disk(
                "vda",
                "images/root.qcow2",
                Format::Qcow2,
                (700 * MIB, &[(0, 3 * MIB), (600 * MIB + 5, 200_000)]),
            ),
            self.disk("vdb", "images/da ta.img", Format::Raw, (10 * MIB + 512, &[(MIB, 100), (10 * MIB, 512)])),
        ]
    }

    /// A definition with these disks, a CD-ROM and an excluded disk.
    pub fn xml(&self, disks: &[Disk]) -> String {
        let mut devices = String::new();
        for disk in disks {
            let path = disk.source.path().unwrap().display();
            devices += &format!(
                "<disk type='file' device='disk'><driver name='qemu' type='{}'/><source file='{path}'/>\
                 <target dev='{}' bus='virtio'/></disk>\n",
                disk.format.driver(),
                disk.target
            );
        }
        format!(
            "<domain type='qemu'><name>{DOMAIN}</name><uuid>{UUID}</uuid><memory unit='KiB'>65536</memory>\
             <os><type arch='x86_64'>hvm</type><nvram>{}</nvram><kernel>{}</kernel></os>\n<devices>\n{devices}\
             <disk type='file' device='cdrom'><source file='{}'/><target dev='sda' bus='sata'/><readonly/></disk>\n\
             <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{}'/>\
             <target dev='vdz' bus='virtio'/></disk>\n</devices></domain>\n",
            self.path("nvram/web 1_VARS.fd").display(),
            self.path("images/vmlinuz").display(),
            self.path("images/install.iso").display(),
            self.path("images/scratch.img").display(),
        )
    }

    pub fn manifest(&self, id: PointId, disks: &[Disk]) -> Manifest {
        let entry = |disk: &Disk| DiskEntry {
            target: disk.target.to_owned(),
            member: disk_member(disk.target),
            virtual_bytes: disk.size,
            read_bytes: disk.extents.iter().map(|extent| extent.length).sum(),
            source: disk.source.clone(),
            format: disk.format.clone(),
            backing: Vec::new(),
            owner: None,
            encrypted: false,
            shrunk: false,
        };
        let file = |member: &str, path: PathBuf| FileEntry { member: member.to_owned(), path, device: false };
        Manifest {
            format: FORMAT,
            program: "kvmbackup test".to_owned(),
            run_id: Uuid::nil(),
            point: id,
            host: "cloud1".to_owned(),
            domain: DomainRef { name: DOMAIN.to_owned(), uuid: UUID },
            state: DomainState::Running,
            method: Method::Snapshot,
            method_reason: None,
            consistency: Consistency::Filesystem,
            quiesce_asked: true,
            frozen_ms: Some(12),
            disks: disks.iter().map(entry).collect(),
            skipped: vec![SkippedDisk {
                target: "vdz".to_owned(),
                reason: "excluded".to_owned(),
                missed: false,
                hint: None,
            }],
            nvram: Some(file("nvram/web 1_VARS.fd", self.path("nvram/web 1_VARS.fd"))),
            boot: vec![BootEntry {
                element: "kernel".to_owned(),
                member: "boot/kernel".to_owned(),
                path: self.path("images/vmlinuz"),
            }],
            tpm: vec![file("tpm/tpm2/tpm2-00.permall", "/var/lib/libvirt/swtpm/x/tpm2/tpm2-00.permall".into())],
            tpm_missing: None,
            suspect: None,
            not_saved: Vec::new(),
            warnings: Vec::new(),
            hooks: Vec::new(),
            artifacts: Vec::new(),
        }
    }

    /// Publishes a restore point as a backup does.
    pub fn point(&self, time: &str, codec: Codec, disks: &[Disk]) -> Point {
        self.point_with(time, codec, (disks, &self.xml(disks)), |_| ())
    }

    pub fn point_with(
        &self,
        time: &str,
        codec: Codec,
        (disks, xml): (&[Disk], &str),
        change: impl FnOnce(&mut Manifest),
    ) -> Point {
        let mut point = self.begin(time, codec);
        let mut manifest = self.manifest(point.id(), disks);
        manifest.disks.iter_mut().for_each(|disk| disk.member = point.disk_member(&disk.target));
        change(&mut manifest);
        point.manifest(&manifest).unwrap();
        for name in [DOMAIN_XML, DOMAIN_INACTIVE_XML, DOMAIN_MIGRATABLE_XML] {
            point.add(name, xml.as_bytes()).unwrap();
        }
        point.add("nvram/web 1_VARS.fd", b"variables").unwrap();
        point.add("tpm/tpm2/tpm2-00.permall", b"state").unwrap();
        point.add("boot/kernel", b"kernel").unwrap();
        for (disk, entry) in disks.iter().zip(&manifest.disks) {
            point.disk(&entry.member, &mut disk.source()).unwrap();
        }
        point.commit().unwrap()
    }

    /// An archive as the legacy script creates it.
    pub fn seed(&self, name: &str, disks: &[Disk]) -> PathBuf {
        let day = self.path("2026-11-15");
        std::fs::create_dir_all(&day).unwrap();
        for end in ["", "-inactive", "-migratable"] {
            std::fs::write(day.join(format!("{DOMAIN}{end}.xml")), self.xml(disks)).unwrap();
        }
        for disk in disks {
            let image = day.join(disk.source.path().unwrap().file_name().unwrap());
            let format = disk.format.driver();
            run("qemu-img", &["convert", "-f", "raw", "-O", format, text(&disk.raw), text(&image)]);
        }
        let folder = self.path("backup").join(DOMAIN);
        std::fs::create_dir_all(&folder).unwrap();
        let archive = folder.join(name);
        run("tar", &["-C", text(self.dir.path()), "-czf", text(&archive), "2026-11-15"]);
        std::fs::remove_dir_all(day).unwrap();
        archive
    }
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    said
}
