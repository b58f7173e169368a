//! Finds the users of a file or block device of this host: domains by their live and persistent definitions, with the
//! whole chains of their images; processes that have it open; loop devices on it. Must not decide whether that use
//! forbids anything, or change anything.
//!
//! Everything that replaces, removes or commits into an image checks here first, and so does everything that reads an
//! image as if no process wrote to it.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Error;
use crate::hypervisor::{Guests, Kind};
use crate::model::{Domain, DomainRef, Format, Image, Source};
use crate::qcow2::Links;
use crate::sys::in_use::{self, FileId};
use crate::sys::patience::Patience;

/// Timeout for examining the images of one domain, or the loop devices of this host, because any of the files may be on
/// a hung mount.
const LOOK: Duration = Duration::from_secs(30);
/// How many images of one chain are followed.
pub(super) const MAX_CHAIN: usize = 200;

/// How a domain uses a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The image that a disk names.
    Disk,
    /// An image below that one, or its data file.
    Below,
    /// A file that the guest boots from: UEFI variables, kernel, initrd.
    Boot,
}

/// A domain that names a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Use {
    pub domain: DomainRef,
    /// Whether the domain is active.
    pub active: bool,
    /// Target of the disk. Empty for a boot file.
    pub target: String,
    pub role: Role,
    /// The path in the definition or header.
    pub path: PathBuf,
    id: Option<FileId>,
}

/// A user of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum User {
    /// A definition names it.
    Domain(Use),
    /// A process or loop device of this host uses it now.
    Host(in_use::User),
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            User::Domain(Use { domain, target, role: Role::Disk, .. }) => {
                write!(f, "domain {} (disk {target})", domain.name)
            }
            User::Domain(Use { domain, target, role: Role::Below, .. }) => {
                write!(f, "domain {} (backing file of disk {target})", domain.name)
            }
            User::Domain(Use { domain, role: Role::Boot, .. }) => {
                write!(f, "domain {} (boot file)", domain.name)
            }
            User::Host(user) => user.fmt(f),
        }
    }
}

/// The files that all domains use, as of the time of the query.
#[derive(Debug, Default)]
pub(super) struct Users(Vec<Use>);

impl Users {
    /// Queries every definition from libvirt, and the headers of the images.
    ///
    /// # Errors
    /// If libvirt does not answer. An image that cannot be read is only logged; its own path still counts.
    pub fn look(hypervisor: &dyn Guests) -> Result<Users, Error> {
        let mut uses = Vec::new();
        for (id, _) in hypervisor.domains()? {
            match described(hypervisor, &id) {
                Ok(definitions) => definitions.iter().for_each(|domain| uses.extend(uses_of(domain))),
                // The domain disappeared after it was listed.
                Err(error) if error.kind() == Kind::NoDomain => {}
                Err(error) => return Err(error.into()),
            }
        }
        uses.dedup();
        Ok(Users(uses))
    }

    /// The domains that name the file at `path`, or something that shares its bytes.
    pub fn domains(&self, path: &Path) -> Result<Vec<&Use>, Error> {
        let ids = ids(path)?;
        let names = |one: &&Use| one.path == path || one.id.is_some_and(|id| ids.contains(&id));
        let mut found: Vec<&Use> = self.0.iter().filter(names).collect();
        found.dedup_by_key(|one| (one.domain.uuid, one.target.clone(), one.role as u8));
        Ok(found)
    }
}

/// The processes and loop devices that use the file or device at `path` now. Empty if it does not exist.
pub(super) fn open(path: &Path) -> Result<Vec<in_use::User>, Error> {
    let id = FileId::of(path).map_err(Error::file("access", path))?;
    let Some(id) = id else { return Ok(Vec::new()) };
    let users = Patience::new(LOOK).call(move || in_use::users(id)).and_then(|users| users);
    users.map_err(Error::file("find out which process uses", path))
}

/// The files of an image: itself, the images below it and data files, as far as headers name them.
///
/// # Errors
/// If a header cannot be read or is damaged. A file of the chain that does not exist is included.
pub(super) fn files_of(image: &Image) -> io::Result<Vec<PathBuf>> {
    let Some(path) = image.source.path() else { return Ok(Vec::new()) };
    let mut files: Vec<PathBuf> = Vec::new();
    let mut open = vec![(path.to_owned(), image.format.clone())];
    while let Some((path, format)) = open.pop() {
        if files.contains(&path) || files.len() >= MAX_CHAIN {
            continue;
        }
        if let Some(links) = links(&path, &format)? {
            let below = links.backing.as_deref().and_then(|name| resolve(&path, name));
            let below_format = links.backing_format.map_or(Format::Qcow2, |name| Format::from_driver(&name));
            open.extend(below.map(|below| (below, below_format)));
            open.extend(links.data_file.and_then(|name| resolve(&path, &name)).map(|file| (file, Format::Raw)));
        }
        files.push(path);
    }
    Ok(files)
}

/// What the header of a qcow2 image names. Headers of other formats are not read.
pub(super) fn links(path: &Path, format: &Format) -> io::Result<Option<Links>> {
    if *format != Format::Qcow2 {
        return Ok(None);
    }
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    match Links::read(&file) {
        Ok(links) => Ok(Some(links)),
        // The image above does not name the format, so QEMU probes it. This does the same.
        Err(crate::qcow2::Error::NotQcow2) => Ok(None),
        Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
    }
}

/// The image below a qcow2 image, if its header names a file or block device, and the format.
pub(super) fn below(path: &Path, links: &Links) -> Option<Image> {
    let below = resolve(path, links.backing.as_deref()?)?;
    let is_block = below.metadata().is_ok_and(|metadata| metadata.file_type().is_block_device());
    let source = if is_block { Source::Block(below) } else { Source::File(below) };
    Some(Image { source, format: Format::from_driver(links.backing_format.as_deref()?) })
}

/// The path of a file that the header of the image at `image` names. `None` for anything that is not a file.
pub(super) fn resolve(image: &Path, name: &OsStr) -> Option<PathBuf> {
    let bytes = name.as_bytes();
    if let Some(json) = bytes.strip_prefix(b"json:") {
        let file = serde_json::from_slice::<serde_json::Value>(json).ok()?;
        let named = [&file["filename"], &file["file"]["filename"], &file["file.filename"]];
        return named.iter().find_map(|name| name.as_str()).and_then(|name| resolve(image, OsStr::new(name)));
    }
    let path = Path::new(OsStr::from_bytes(bytes.strip_prefix(b"file:").unwrap_or(bytes)));
    let protocol = bytes.iter().position(|byte| *byte == b':').is_some_and(|at| !bytes[..at].contains(&b'/'));
    if protocol && !bytes.starts_with(b"file:") {
        return None;
    }
    Some(image.parent().unwrap_or(Path::new("/")).join(path))
}

/// The live and the persistent definition of a domain.
pub(super) fn described(hypervisor: &dyn Guests, id: &DomainRef) -> Result<Vec<Domain>, crate::hypervisor::Error> {
    let mut definitions = vec![hypervisor.describe(id)?];
    definitions.extend(hypervisor.persistent(id)?);
    Ok(definitions)
}

fn uses_of(domain: &Domain) -> Vec<Use> {
    let one = |target: &str, role, path: &Path| Use {
        domain: domain.id.clone(),
        active: domain.state.is_active(),
        target: target.to_owned(),
        role,
        path: path.to_owned(),
        id: None,
    };
    let mut uses = Vec::new();
    for disk in &domain.disks {
        uses.extend(disk.image.source.path().map(|path| one(&disk.target, Role::Disk, path)));
        let below = disk.backing.iter().filter_map(|image| image.source.path());
        uses.extend(below.map(|path| one(&disk.target, Role::Below, path)));
    }
    let boot = domain.nvram.iter().map(|nvram| &nvram.path).chain(domain.boot.iter().map(|file| &file.path));
    uses.extend(boot.map(|path| one("", Role::Boot, path)));

    let images: Vec<(String, Image)> = domain
        .disks
        .iter()
        .flat_map(|disk| {
            std::iter::once(&disk.image).chain(&disk.backing).map(|image| (disk.target.clone(), image.clone()))
        })
        .collect();
    let (named, name) = (uses.clone(), domain.id.name.clone());
    let looked = Patience::new(LOOK).call(move || look_at(named, &images, &name));
    looked.unwrap_or_else(|error| {
        tracing::warn!(domain = domain.id.name, %error, "cannot examine the domain's images");
        uses
    })
}

/// Adds the files that headers name, and the identity of the file at each path.
fn look_at(mut uses: Vec<Use>, images: &[(String, Image)], domain: &str) -> Vec<Use> {
    for (target, image) in images {
        match files_of(image) {
            Ok(files) => {
                for path in files {
                    if let Some(named) = uses.iter().find(|one| one.target == *target && one.path != path)
                        && !uses.iter().any(|one| one.target == *target && one.path == path)
                    {
                        uses.push(Use { role: Role::Below, path, ..named.clone() });
                    }
                }
            }
            Err(error) => tracing::warn!(domain, disk = target, %error, "cannot read which files the image refers to"),
        }
    }
    for one in &mut uses {
        one.id = FileId::of(&one.path).ok().flatten();
    }
    uses
}

/// The identity of the file at a path, and of everything that shares its bytes.
fn ids(path: &Path) -> Result<BTreeSet<FileId>, Error> {
    let id = FileId::of(path).map_err(Error::file("access", path))?;
    let Some(id) = id else { return Ok(BTreeSet::new()) };
    Patience::new(LOOK).call(move || id.related()).map_err(Error::file("find out which process uses", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::fake::Fake;
    use crate::model::DomainState;
    use crate::store::fixture::{run, text};

    #[test]
    fn domain_uses_every_image_of_its_backing_chains() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        run("qemu-img", &["create", "-q", "-f", "raw", text(&path("base.raw")), "1M"]);
        run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", text(&path("middle"))]);
        let below =
            format!(r#"json:{{"driver":"qcow2","file":{{"driver":"file","filename":"{}"}}}}"#, text(&path("middle")));
        run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", &below, "-F", "qcow2", text(&path("top"))]);
        std::os::unix::fs::symlink(path("base.raw"), path("link")).unwrap();

        let fake = Fake::new(DomainState::Off, "vda", &[&path("top")]);
        let users = Users::look(&fake).unwrap();
        let roles = |path: &Path| users.domains(path).unwrap().iter().map(|one| one.role).collect::<Vec<_>>();
        assert_eq!(roles(&path("top")), [Role::Disk]);
        for below in ["middle", "base.raw", "link"] {
            assert_eq!(roles(&path(below)), [Role::Below], "{below}");
        }
        assert_eq!(roles(dir.path()), []);
        let shown: Vec<String> = users
            .domains(&path("link"))
            .unwrap()
            .into_iter()
            .map(|one| User::Domain(one.clone()).to_string())
            .collect();
        assert_eq!(shown, ["domain web 1 (backing file of disk vda)"]);
    }

    #[test]
    fn path_of_a_missing_file_still_counts_as_used() {
        let fake = Fake::new(DomainState::Off, "vda", &[Path::new("/nowhere/a.qcow2")]);
        let users = Users::look(&fake).unwrap();
        assert_eq!(users.domains(Path::new("/nowhere/a.qcow2")).unwrap().len(), 1);
        assert_eq!(open(Path::new("/nowhere/a.qcow2")).unwrap(), []);
    }

    #[test]
    fn names_of_other_protocols_are_not_files() {
        let image = Path::new("/v/top");
        assert_eq!(resolve(image, OsStr::new("nbd:unix:/s:exportname=x")), None);
        assert_eq!(resolve(image, OsStr::new("file:a:b")), Some("/v/a:b".into()));
        assert_eq!(resolve(image, OsStr::new("./a:b")), Some("/v/./a:b".into()));
        assert_eq!(resolve(image, OsStr::new("/x/y")), Some("/x/y".into()));
    }

    #[test]
    fn circular_chain_ends() {
        let dir = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| dir.path().join(name));
        run("qemu-img", &["create", "-q", "-f", "qcow2", text(&a), "1M"]);
        run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", text(&a), "-F", "qcow2", text(&b)]);
        run("qemu-img", &["rebase", "-u", "-b", text(&b), "-F", "qcow2", text(&a)]);
        let image = Image { source: Source::File(a.clone()), format: Format::Qcow2 };
        assert_eq!(files_of(&image).unwrap(), [a, b]);
    }
}
