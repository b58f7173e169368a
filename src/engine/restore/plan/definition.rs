//! Owns: the plan for a domain that is defined: where its images and the files beside them go, and what its definition says
//! of them. Pure. Must not: follow an archive to a folder where images do not lie.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::super::names::fresh_name;
use super::super::staging::Rights;
use super::super::{Error, Request};
use super::choice::{choose, names};
use super::{How, Plan, Write, is_flat, no_folder, suspect};
use crate::hypervisor::domain_xml::TpmState;
use crate::model::command::quoted;
use crate::model::is_plain;
use crate::model::{Device, Disk, Domain, DomainRef, Image, Owner, Source};
use crate::store::{Contents, SavedDisk};

/// The name of a TPM's state in an archive, when it is one file.
const TPM_FILE: &str = "state";

/// What is known of the host.
pub struct Host<'a> {
    /// Whether a path exists.
    pub exists: &'a dyn Fn(&Path) -> bool,
    /// The regular file that a link leads to, when the link can be trusted.
    pub leads_to: &'a dyn Fn(&Path) -> Option<PathBuf>,
    /// Whether an image may be put into a folder only because the archive says that it was there.
    pub may_lie_in: &'a dyn Fn(&Path) -> bool,
    /// The same of a block device.
    pub may_be_on: &'a dyn Fn(&Path) -> bool,
    /// Members whose original path has the same bytes as they.
    pub same: &'a BTreeSet<String>,
    /// Where libvirt keeps the state of emulated TPMs, by UUID.
    pub swtpm: &'a Path,
    /// A private file of the user that QEMU runs as.
    pub qemu_owner: Option<Owner>,
    /// A private file of the user that swtpm runs as.
    pub swtpm_owner: Option<Owner>,
}

/// Images, and all that the definition of `to` needs beside them; `described` is what the saved definition says.
pub fn domain(
    saved: &Contents,
    request: &Request,
    described: &Domain,
    to: &DomainRef,
    host: &Host<'_>,
) -> Result<Plan, Error> {
    let mut plan = Plan::default();
    let renamed = to.uuid != saved.domain.uuid;
    if renamed {
        plan.changes.rename = Some(to.clone());
    }
    let chosen = choose(saved, request)?;
    let names = names(saved, &chosen, request.to.is_some());
    for ((disk, device), name) in chosen.iter().zip(names) {
        let name = if renamed { fresh_name(&to.name, disk) } else { name };
        let place = match device {
            Some(device) => Place::Device((*device).to_owned()),
            None => image_folder(saved, request, disk, renamed, host)?,
        };
        let image = match place {
            Place::Device(device) => plan.write_device(saved, disk, &device)?,
            Place::Folder(folder) => plan.write_image(saved, disk, folder.join(name))?,
        };
        let is_defined = described.disks.iter().any(|defined| defined.target == disk.target);
        // QEMU would follow an image of another format to whatever file it names.
        match (is_defined, is_flat(&image.format)) {
            (true, true) => drop(plan.changes.disks.insert(disk.target.clone(), image)),
            (true, false) => drop(plan.changes.drop_disks.insert(disk.target.clone())),
            (false, true) => plan.notes.push(undefined(&disk.target, &image, to)),
            (false, false) => {}
        }
    }
    for disk in &described.disks {
        let is_settled =
            plan.changes.disks.contains_key(&disk.target) || plan.changes.drop_disks.contains(&disk.target);
        if !is_settled {
            plan.without(disk, saved, renamed, host);
        }
    }
    let beside = plan.folder_of_images(request);
    let guest = Guest { to, renamed, beside, host };
    plan.add_nvram(saved, &guest)?;
    plan.add_boot(saved, &guest)?;
    plan.add_tpm(saved, &guest)?;
    if let Some(why) = &saved.tpm_missing {
        plan.notes.push(format!("the TPM state was not backed up ({why}); the guest starts with an empty TPM"));
    }
    plan.add_not_saved(saved);
    // The definition goes on to name the link.
    for write in plan.writes.iter_mut().filter(|write| !matches!(write.how, How::Device(_) | How::Tpm)) {
        let real = (host.leads_to)(&write.to).filter(|real| real.parent().is_some_and(host.may_lie_in));
        write.to = real.unwrap_or_else(|| std::mem::take(&mut write.to));
    }
    plan.check_distinct(saved)?;
    let in_place = !renamed && request.to.is_none();
    for write in &mut plan.writes {
        let disk = saved.disks.iter().find(|disk| in_place && disk.member == write.member);
        let owner = match write.how {
            How::Tpm => host.swtpm_owner,
            _ => disk.and_then(|disk| disk.owner).or(host.qemu_owner),
        };
        write.rights = Rights::Kept(owner);
    }
    Ok(plan)
}

/// The guest that files beside the disks are for.
struct Guest<'a> {
    to: &'a DomainRef,
    /// It is a copy under another name.
    renamed: bool,
    /// The folder for files that belong to the images.
    beside: Option<PathBuf>,
    host: &'a Host<'a>,
}

/// What to know of a disk that was attached to the running guest alone, or that the operator took out of the definition.
fn undefined(target: &str, image: &Image, to: &DomainRef) -> String {
    let path = image.source.path().unwrap_or(Path::new("")).display().to_string();
    format!(
        "disk {target} is not in the definition; only its contents are restored. To attach it: virsh attach-disk {} {} {target} \
         --driver qemu --subdriver {} --config",
        quoted(&to.name),
        quoted(&path),
        image.format.driver()
    )
}

/// Where an image goes.
enum Place {
    Folder(PathBuf),
    Device(PathBuf),
}

fn image_folder(
    saved: &Contents,
    request: &Request,
    disk: &SavedDisk,
    renamed: bool,
    host: &Host<'_>,
) -> Result<Place, Error> {
    if let Some(folder) = &request.to {
        return Ok(Place::Folder(folder.clone()));
    }
    match &disk.source {
        Source::File(path) => match path.parent().filter(|folder| (host.may_lie_in)(folder)) {
            Some(folder) => Ok(Place::Folder(folder.to_owned())),
            None => Err(Error::Rejected {
                message: format!(
                    "disk {}: its image was {}, but no active storage pool and no defined domain uses that directory",
                    disk.target,
                    path.display()
                ),
                hint: Some("An archive alone must not choose this directory. Set one: --to DIR".to_owned()),
            }),
        },
        Source::Block(path) if !renamed && request.overwrite && (host.may_be_on)(path) => {
            Ok(Place::Device(path.clone()))
        }
        Source::Block(path) if !renamed && request.overwrite => Err(Error::Rejected {
            message: format!(
                "disk {}: it was the block device {}, which the domain does not use on this host",
                disk.target,
                path.display()
            ),
            hint: Some(format!("Name the device: {}; or restore to files: --to DIR", with_device(saved, disk))),
        }),
        Source::Block(path) if !renamed => Err(Error::Rejected {
            message: format!("disk {}: it was the block device {}", disk.target, path.display()),
            hint: Some(format!(
                "Overwrite that device: --overwrite; or name another one: {}; or restore to files: --to DIR",
                with_device(saved, disk)
            )),
        }),
        _ => Err(no_folder(disk)),
    }
}

/// The words that choose a device for one disk, and leave the others in: named disks are the only ones that are restored.
fn with_device(saved: &Contents, disk: &SavedDisk) -> String {
    let word = |other: &SavedDisk| {
        let device = if other.target == disk.target { "=/dev/…" } else { "" };
        format!("--disk {}{device}", other.target)
    };
    saved.disks.iter().map(word).collect::<Vec<_>>().join(" ")
}

impl Plan {
    /// A disk of the definition that is not restored.
    fn without(&mut self, disk: &Disk, saved: &Contents, renamed: bool, host: &Host<'_>) {
        let target = &disk.target;
        if disk.image.source == Source::Empty {
            return;
        }
        let missing = disk.image.source.path().filter(|path| !(host.exists)(path));
        let shared = disk.readonly || disk.shareable;
        if matches!(disk.device, Device::Cdrom | Device::Floppy) {
            if missing.is_some() || (renamed && !shared) {
                let what = missing.map_or(String::new(), |path| format!("; {} is not on this host", path.display()));
                self.notes.push(format!("drive {target} is empty{what}"));
                self.changes.eject.insert(target.clone());
            } else if let Some(path) =
                disk.image.source.path().filter(|path| path.parent().is_some_and(host.may_lie_in))
            {
                // A medium that lies where images do is what drives have.
                self.changes.kept.insert(path.to_owned());
            }
            return;
        }
        let why = saved.skipped.get(target).map_or("it was not chosen", String::as_str);
        let keeps = missing.is_none() && (!renamed || shared);
        self.notes.push(match (keeps, missing) {
            (true, _) => {
                format!("disk {target} is not restored ({why}); the domain uses the existing one on this host")
            }
            (false, Some(path)) => {
                format!(
                    "the domain has no disk {target}: not restored ({why}), and {} does not exist on this host",
                    path.display()
                )
            }
            (false, None) => format!(
                "the domain has no disk {target}: not restored ({why}), because it belongs to \
            the original guest"
            ),
        });
        if !keeps {
            self.changes.drop_disks.insert(target.clone());
        }
    }

    /// The folder for files that belong to the images.
    fn folder_of_images(&self, request: &Request) -> Option<PathBuf> {
        let is_file = |write: &&Write| !matches!(write.how, How::Device(_));
        let first = || self.writes.iter().find(is_file).and_then(|write| write.to.parent()).map(Path::to_owned);
        request.to.clone().or_else(first)
    }

    fn add_nvram(&mut self, saved: &Contents, guest: &Guest<'_>) -> Result<(), Error> {
        let Guest { to, renamed, beside, host } = guest;
        let Some(nvram) = &saved.nvram else { return Ok(()) };
        // Variables of a block device become a file: whose device that is now, the archive cannot tell.
        let original = Some(&nvram.path).filter(|_| !nvram.device);
        if nvram.device {
            self.notes.push(format!("the UEFI variables were on {}; they are now a file", nvram.path.display()));
        }
        let old = original.and_then(|path| path.file_name()?.to_str()).filter(|name| is_plain(name));
        let name = match old {
            Some(old) if !renamed => old.to_owned(),
            _ => format!("{}_VARS.fd", to.name),
        };
        let original = original.and_then(|path| path.parent()).filter(|folder| (host.may_lie_in)(folder));
        let folder = original.map(Path::to_owned).or_else(|| beside.clone()).ok_or_else(nowhere)?;
        let path = folder.join(name);
        self.changes.nvram = Some(path.clone());
        self.write(saved, &nvram.member, path, How::Copy)
    }

    /// The state of a TPM goes to libvirt's own folder for the domain. Where the definition names another place, it goes back
    /// there, but not for a copy.
    fn add_tpm(&mut self, saved: &Contents, guest: &Guest<'_>) -> Result<(), Error> {
        let Guest { to, renamed, beside, host } = guest;
        let own = host.swtpm.join(to.uuid.to_string());
        for file in &saved.tpm {
            let within = file.member.strip_prefix("tpm/").ok_or_else(|| suspect(saved, "a TPM member is misplaced"))?;
            let name = file.path.file_name().and_then(|name| name.to_str()).filter(|name| is_plain(name));
            let usable = !renamed && file.path.parent().is_some_and(host.may_lie_in);
            let path = match name {
                Some(_) if within.contains('/') => own.join(within),
                Some(_) if usable => file.path.clone(),
                // The state is one file, which libvirt's own folder cannot hold.
                Some(_) if within == TPM_FILE => {
                    let path = beside.clone().ok_or_else(nowhere)?.join(format!("{}-tpm", to.name));
                    self.changes.tpm = Some(TpmState::File(path.clone()));
                    path
                }
                Some(name) => {
                    self.changes.tpm = Some(TpmState::Own);
                    let version = if name.starts_with("tpm2") { "tpm2" } else { "tpm1.2" };
                    own.join(version).join(name)
                }
                None => return Err(suspect(saved, "a file of the TPM state has no usable name")),
            };
            self.write(saved, &file.member, path, How::Tpm)?;
        }
        Ok(())
    }

    fn add_boot(&mut self, saved: &Contents, guest: &Guest<'_>) -> Result<(), Error> {
        let Guest { to, renamed, beside, host } = guest;
        for file in &saved.boot {
            // Two guests cannot write one firmware.
            let is_shared = *renamed && file.element == "loader";
            if host.same.contains(&file.member) && !is_shared {
                self.changes.kept.insert(file.path.clone());
                continue;
            }
            if !["kernel", "initrd", "dtb", "loader"].contains(&file.element.as_str()) {
                return Err(suspect(saved, &format!("a boot file is called {:?}", file.element)));
            }
            let path = beside.clone().ok_or_else(nowhere)?.join(format!("{}-{}", to.name, file.element));
            if !is_shared {
                self.notes.push(format!(
                    "{} differs from what the guest booted; the saved {} is {}",
                    file.path.display(),
                    file.element,
                    path.display()
                ));
            }
            self.changes.boot.insert(file.element.clone(), path.clone());
            self.write(saved, &file.member, path, How::Copy)?;
        }
        Ok(())
    }
}

fn nowhere() -> Error {
    Error::Rejected {
        message: "no directory for the files beside the disks".to_owned(),
        hint: Some("Set one: --to DIR".to_owned()),
    }
}
