//! Converts libvirt's domain XML to [`Domain`]. Pure. Must not guess what the XML does not contain, or open images.

use std::path::{Path, PathBuf};

use roxmltree::Node;
use uuid::Uuid;

use super::Error;
use super::outside::{is_writable_firmware, outside};
use super::source::unread;
use super::tree::{all, at, attribute, is, parse, text};
use crate::model::{BootFile, Device, Disk, Domain, DomainRef, DomainState, DomainXml, Format, Image, Nvram, Source};

/// Where the system libvirt keeps the state of emulated TPMs, by UUID.
pub const TPM_STATE: &str = "/var/lib/libvirt/swtpm";

/// A domain, and the parts of its XML that [`Domain`] does not contain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// The domain. The XML has no path for the volume of a pool, so its source is [`Source::Unsupported`]`("volume")` until
    /// the caller looks it up.
    pub domain: Domain,
    /// Volumes that the caller must look up.
    pub volumes: Vec<Volume>,
    /// Block jobs on disks. libvirt rejects a snapshot or a backup while one runs.
    pub jobs: Vec<Job>,
}

/// An image in a storage pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Target of the disk.
    pub target: String,
    /// 0 is the active image, 1 the image directly below.
    pub layer: usize,
    /// Name of the pool.
    pub pool: String,
    /// Name of the volume.
    pub volume: String,
}

/// A block job on a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Target of the disk.
    pub target: String,
    /// libvirt's name for the job (`copy`, `active-commit`).
    pub kind: String,
}

/// Reads domain XML.
///
/// Fails if the XML exceeds a limit, is not a domain, or lacks the name, the UUID or the target of a disk.
pub fn read(xml: DomainXml, state: DomainState, persistent: bool) -> Result<Described, Error> {
    let live_document = parse(&xml.live)?;
    let inactive_document = parse(&xml.inactive)?;
    let (live, inactive) = (live_document.root_element(), inactive_document.root_element());

    let mut disks = disks(live)?;
    if persistent && state.is_active() {
        add_persistent_images(&mut disks, inactive)?;
    }
    let id = id(live)?;
    let volumes = volumes(live);
    let jobs = jobs(live);
    // libvirt may choose the path of the variables when the guest starts, so only one of the two XML documents may contain it.
    let nvram = nvram(live).or_else(|| nvram(inactive));
    let boot = boot_files(live);
    let tpm = tpm_state(live, &id);
    let agent_channel = devices(live, "channel")
        .any(|channel| attribute(channel, &["target"], "name") == Some("org.qemu.guest_agent.0"));

    let outside = outside(live);
    let suspended = false;
    let domain = Domain { id, state, suspended, persistent, xml, disks, nvram, boot, tpm, agent_channel, outside };
    Ok(Described { domain, volumes, jobs })
}

/// Whether the XML of a snapshot has disks or memory in separate files.
pub fn is_external_snapshot(xml: &str) -> bool {
    let Ok(document) = roxmltree::Document::parse(xml) else { return false };
    let snapshot = document.root_element();
    let disks = all(snapshot, "disks").flat_map(|disks| all(disks, "disk"));
    disks.chain(all(snapshot, "memory")).any(|part| part.attribute("snapshot") == Some("external"))
}

fn id(domain: Node<'_, '_>) -> Result<DomainRef, Error> {
    // Not trimmed: spaces at either end belong to the name.
    let name = at(domain, &["name"]).and_then(|name| name.text()).filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| Error::Missing { what: "name".to_owned() })?.to_owned();
    let uuid = text(domain, &["uuid"]).ok_or_else(|| Error::Missing { what: "uuid".to_owned() })?;
    let uuid = Uuid::parse_str(uuid).map_err(|_| Error::Unknown { what: "the uuid", value: uuid.to_owned() })?;
    Ok(DomainRef { name, uuid })
}

pub(super) fn devices<'a, 'i>(domain: Node<'a, 'i>, name: &'static str) -> impl Iterator<Item = Node<'a, 'i>> {
    all(domain, "devices").flat_map(move |devices| all(devices, name))
}

fn disks(domain: Node<'_, '_>) -> Result<Vec<Disk>, Error> {
    let mut disks: Vec<Disk> = Vec::new();
    for node in devices(domain, "disk") {
        let disk = disk(node)?;
        if disks.iter().any(|other| other.target == disk.target) {
            return Err(Error::SameTarget { target: disk.target });
        }
        disks.push(disk);
    }
    Ok(disks)
}

fn disk(node: Node<'_, '_>) -> Result<Disk, Error> {
    let target = target(node).ok_or_else(|| Error::Missing { what: "target of a disk".to_owned() })?.to_owned();
    let device = match node.attribute("device").unwrap_or("disk") {
        "disk" => Device::Disk,
        "cdrom" => Device::Cdrom,
        "floppy" => Device::Floppy,
        "lun" => Device::Lun,
        other => return Err(Error::Unknown { what: "the disk device", value: other.to_owned() }),
    };
    let backing: Vec<Node<'_, '_>> = backing_chain(node).collect();
    let layers = || std::iter::once(node).chain(backing.iter().copied());
    Ok(Disk {
        target,
        device,
        image: image(node, attribute(node, &["driver"], "type")),
        chain_ends: all(backing.last().copied().unwrap_or(node), "backingStore").next().is_some(),
        persistent: None,
        readonly: at(node, &["readonly"]).is_some(),
        shareable: at(node, &["shareable"]).is_some(),
        transient: at(node, &["transient"]).is_some(),
        encrypted: layers().any(is_encrypted),
        only_qemu: layers().find_map(unread),
        unknown: None,
        backing: backing.iter().map(|layer| image(*layer, attribute(*layer, &["format"], "type"))).collect(),
    })
}

fn target<'a>(disk: Node<'a, '_>) -> Option<&'a str> {
    attribute(disk, &["target"], "dev")
}

/// The layers below the active image, nearest first, without the empty element that ends a known chain.
fn backing_chain<'a, 'i>(disk: Node<'a, 'i>) -> impl Iterator<Item = Node<'a, 'i>> {
    let below = |node: Node<'a, 'i>| all(node, "backingStore").next().filter(|layer| layer.has_attribute("type"));
    std::iter::successors(below(disk), move |layer| below(*layer))
}

/// libvirt does not probe: an image without a format is raw.
fn image(node: Node<'_, '_>, format: Option<&str>) -> Image {
    Image { source: source(node), format: Format::from_driver(format.unwrap_or("raw")) }
}

fn source(node: Node<'_, '_>) -> Source {
    let kind = node.attribute("type").unwrap_or("file");
    let Some(source) = at(node, &["source"]) else { return Source::Empty };
    let path = |name| source.attribute(name).filter(|path| !path.is_empty()).map(PathBuf::from);
    match (kind, path("file"), path("dev")) {
        ("file", Some(path), _) => Source::File(path),
        ("block", _, Some(path)) => Source::Block(path),
        ("file" | "block", ..) => Source::Empty,
        ("network", ..) => {
            let [protocol, name] = ["protocol", "name"].map(|name| source.attribute(name).unwrap_or_default());
            Source::Network(format!("{protocol}:{name}"))
        }
        (other, ..) => Source::Unsupported(other.to_owned()),
    }
}

/// The element is in the source in newer definitions, in the disk in older ones.
fn is_encrypted(node: Node<'_, '_>) -> bool {
    at(node, &["encryption"]).or_else(|| at(node, &["source", "encryption"])).is_some()
}

fn add_persistent_images(disks: &mut [Disk], inactive: Node<'_, '_>) -> Result<(), Error> {
    for defined in self::disks(inactive)? {
        if let Some(disk) = disks.iter_mut().find(|disk| disk.target == defined.target)
            && disk.image.source != defined.image.source
        {
            disk.persistent = Some(defined.image);
            disk.only_qemu = disk.only_qemu.take().or(defined.only_qemu);
        }
    }
    Ok(())
}

fn volumes(domain: Node<'_, '_>) -> Vec<Volume> {
    let layers = |disk| std::iter::once(disk).chain(backing_chain(disk)).enumerate().map(move |layer| (disk, layer));
    let volume = |(disk, (layer, image))| {
        let [pool, volume] = ["pool", "volume"].map(|name| attribute(image, &["source"], name));
        Some(Volume { target: target(disk)?.to_owned(), layer, pool: pool?.to_owned(), volume: volume?.to_owned() })
    };
    let is_volume = |(_, (_, image)): &(_, (_, Node<'_, '_>))| image.attribute("type") == Some("volume");
    devices(domain, "disk").flat_map(layers).filter(is_volume).filter_map(volume).collect()
}

fn jobs(domain: Node<'_, '_>) -> Vec<Job> {
    let job = |disk| {
        let mirror = at(disk, &["mirror"])?;
        // libvirt omits the name for a copy, which was the only job in old versions.
        let kind = mirror.attribute("job").unwrap_or("copy").to_owned();
        Some(Job { target: target(disk)?.to_owned(), kind })
    };
    devices(domain, "disk").filter_map(job).collect()
}

/// The path is the text of the element or, since libvirt 8.5, in a nested `<source>`, which is a file or a block device.
fn nvram(domain: Node<'_, '_>) -> Option<Nvram> {
    let source = |name| attribute(domain, &["os", "nvram", "source"], name);
    let path = text(domain, &["os", "nvram"]).or_else(|| source("file")).or_else(|| source("dev"))?;
    Some(Nvram { path: PathBuf::from(path) })
}

/// The definition may contain the path (libvirt 10.10 and later). By default libvirt has one directory per domain.
fn tpm_state(domain: Node<'_, '_>, id: &DomainRef) -> Option<PathBuf> {
    let is_emulator = |tpm: &Node<'_, '_>| attribute(*tpm, &["backend"], "type") == Some("emulator");
    let tpm = devices(domain, "tpm").find(is_emulator)?;
    let named = attribute(tpm, &["backend", "source"], "path").map(PathBuf::from);
    Some(named.unwrap_or_else(|| Path::new(TPM_STATE).join(id.uuid.to_string())))
}

fn boot_files(domain: Node<'_, '_>) -> Vec<BootFile> {
    let Some(os) = at(domain, &["os"]) else { return Vec::new() };
    let is_booted = |node: Node<'_, '_>| ["kernel", "initrd", "dtb"].iter().any(|name| is(node, name));
    os.children()
        .filter(|node| is_booted(*node) || (is(*node, "loader") && is_writable_firmware(*node, os)))
        .filter_map(|node| {
            let path = node.text().map(str::trim).filter(|path| !path.is_empty())?;
            Some(BootFile { element: node.tag_name().name().to_owned(), path: PathBuf::from(path) })
        })
        .collect()
}
