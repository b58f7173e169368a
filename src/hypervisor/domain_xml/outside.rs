//! Owns: what of a guest lies outside its disks and outside what a backup takes beside them. Pure. Must not: judge how much
//! that matters to an operator beyond whether it may hold data of the guest.

use roxmltree::Node;

use super::read::devices;
use super::tree::{all, at, attribute, text};
use crate::model::NotSaved;

/// The namespace of arguments for QEMU: <https://libvirt.org/kbase/qemu-passthrough-security.html>.
const QEMU: &str = "http://libvirt.org/schemas/domain/qemu/1.0";

/// Arguments of QEMU that bring in a file or device, without their dashes.
const DRIVES: [&str; 15] = [
    "drive", "blockdev", "hda", "hdb", "hdc", "hdd", "fda", "fdb", "cdrom", "sd", "pflash", "mtdblock", "fsdev",
    "virtfs", "mem-path",
];

const KEYS: &str = "A guest that seals keys in its TPM (BitLocker) needs its recovery key after a restore.";

/// All of it, in the order of these lines.
pub fn outside(domain: Node<'_, '_>) -> Vec<NotSaved> {
    let mut found: Vec<NotSaved> = Vec::new();
    found.extend(devices(domain, "hostdev").filter_map(host_device));
    found.extend(devices(domain, "filesystem").filter_map(shared_folder));
    found.extend(devices(domain, "memory").filter_map(persistent_memory));
    found.extend(devices(domain, "tpm").filter_map(foreign_tpm));
    found.extend(at(domain, &["os", "nvram"]).and_then(network_variables));
    found.extend(arguments(domain));
    found
}

fn data(what: String, hint: &str) -> Option<NotSaved> {
    Some(NotSaved { what, data: true, hint: Some(hint.to_owned()) })
}

fn host_device(device: Node<'_, '_>) -> Option<NotSaved> {
    let kind = device.attribute("type")?;
    let what = format!("host device {kind} {}", named(at(device, &["source"])?));
    match kind {
        "scsi" | "scsi_host" => data(what, "Back up its contents separately, or attach it as <disk device='lun'>."),
        _ => Some(NotSaved { what, data: false, hint: None }),
    }
}

/// How a host device's source names it: as `0000:01:00.0`, or by its attributes.
fn named(source: Node<'_, '_>) -> String {
    let parts = source.descendants().filter(Node::is_element);
    let address = at(source, &["address"]).and_then(|address| {
        let part = |name| u32::from_str_radix(address.attribute(name)?.trim_start_matches("0x"), 16).ok();
        let (bus, slot, function) = (part("bus")?, part("slot")?, part("function")?);
        Some(format!("{:04x}:{bus:02x}:{slot:02x}.{function}", part("domain").unwrap_or_default()))
    });
    address.unwrap_or_else(|| {
        let shown = ["name", "protocol", "wwpn", "id", "uuid", "bus", "device", "target", "unit"];
        let attributes = parts.flat_map(|part| part.attributes());
        let values =
            attributes.filter(|attribute| shown.contains(&attribute.name())).map(|attribute| attribute.value());
        values.collect::<Vec<_>>().join(":")
    })
}

fn shared_folder(folder: Node<'_, '_>) -> Option<NotSaved> {
    let source = at(folder, &["source"])?;
    let place = ["dir", "socket", "file", "dev", "name"].iter().find_map(|name| source.attribute(*name))?;
    Some(NotSaved { what: format!("shared folder {place}"), data: false, hint: None })
}

fn persistent_memory(memory: Node<'_, '_>) -> Option<NotSaved> {
    let model = memory.attribute("model").filter(|model| ["nvdimm", "virtio-pmem"].contains(model))?;
    let path = text(memory, &["source", "path"])?;
    data(format!("{model} memory {path}"), "Copy that file while the guest is off.")
}

fn foreign_tpm(tpm: Node<'_, '_>) -> Option<NotSaved> {
    let backend = at(tpm, &["backend"])?;
    match backend.attribute("type")? {
        "emulator" => None,
        "passthrough" => {
            let device = attribute(backend, &["device"], "path").unwrap_or("/dev/tpm0");
            data(format!("TPM of the host {device}"), KEYS)
        }
        _ => data(format!("TPM emulator at {}", named_socket(backend)), KEYS),
    }
}

fn named_socket<'a>(backend: Node<'a, '_>) -> &'a str {
    let source = at(backend, &["source"]);
    source.and_then(|source| source.attribute("path").or(source.attribute("host"))).unwrap_or("a separate address")
}

fn network_variables(nvram: Node<'_, '_>) -> Option<NotSaved> {
    let kind = nvram.attribute("type").filter(|kind| !["file", "block"].contains(kind))?;
    let name = attribute(nvram, &["source"], "name").unwrap_or_default();
    data(
        format!("UEFI variables ({kind} {name})"),
        "Keep a copy of them. Without it, a restored guest starts with those of the template.",
    )
}

/// Drives and other storage in QEMU arguments: libvirt knows nothing of them.
fn arguments(domain: Node<'_, '_>) -> Vec<NotSaved> {
    let is = |node: &Node<'_, '_>, name| node.tag_name().namespace() == Some(QEMU) && node.tag_name().name() == name;
    let lines = domain.children().filter(|node| is(node, "commandline")).flat_map(|line| line.children());
    let words: Vec<&str> = lines.filter(|node| is(node, "arg")).filter_map(|arg| arg.attribute("value")).collect();
    let storage = words.iter().enumerate().filter_map(|(at, word)| {
        let name = word.trim_start_matches('-');
        let value = words.get(at + 1).copied().unwrap_or_default();
        let is_memory = name == "object" && value.starts_with("memory-backend-file");
        let is_storage = word.starts_with('-') && (DRIVES.contains(&name) || is_memory);
        is_storage.then(|| {
            let path = file_in(value).map_or(String::new(), |path| format!(" {path}"));
            data(
                format!("storage in QEMU arguments: -{name}{path}"),
                "Define it as a <disk>, or back it up separately.",
            )
        })?
    });
    storage.collect()
}

/// The local path in an argument. Nothing else of it is shown: it may hold a password.
fn file_in(value: &str) -> Option<&str> {
    let parts = value.split(',').map(|part| part.split_once('=').map_or(part, |(_, value)| value));
    let json = value.split('"');
    parts.chain(json).find(|part| part.starts_with('/'))
}

/// Whether the firmware is one file that the guest writes, code and variables in one.
pub fn is_writable_firmware(loader: Node<'_, '_>, os: Node<'_, '_>) -> bool {
    let is = |name, value| loader.attribute(name) == Some(value);
    is("type", "pflash") && !is("readonly", "yes") && !is("stateless", "yes") && all(os, "nvram").next().is_none()
}

#[cfg(test)]
mod tests {
    use roxmltree::Document;

    use super::*;

    fn found(inside: &str, devices: &str) -> Vec<String> {
        let xml = format!("<domain xmlns:qemu='{QEMU}'>{inside}<devices>{devices}</devices></domain>");
        let document = Document::parse(&xml).unwrap();
        let mark = |not: NotSaved| format!("{}{}", if not.data { "!" } else { "" }, not.what);
        outside(document.root_element()).into_iter().map(mark).collect()
    }

    #[test]
    fn devices_of_the_host_are_named() {
        for (device, expected) in [
            (
                "<hostdev mode='subsystem' type='pci'><source><address domain='0x0000' bus='0x01' slot='0x00' function='0x1'/>\
                 </source></hostdev>",
                "host device pci 0000:01:00.1",
            ),
            (
                "<hostdev mode='subsystem' type='usb'><source><vendor id='0x1234'/><product id='0xbeef'/></source></hostdev>",
                "host device usb 0x1234:0xbeef",
            ),
            (
                "<hostdev type='mdev' model='vfio-pci'><source><address uuid='c2177883-f1bb-47f0-914d-32a22e3a8804'/></source>\
                 </hostdev>",
                "host device mdev c2177883-f1bb-47f0-914d-32a22e3a8804",
            ),
            (
                "<hostdev type='scsi'><source><adapter name='scsi_host0'/><address bus='0' target='1' unit='2'/></source>\
                 </hostdev>",
                "!host device scsi scsi_host0:0:1:2",
            ),
            (
                "<filesystem type='mount'><driver type='virtiofs'/><source dir='/srv/share'/><target dir='tag'/></filesystem>",
                "shared folder /srv/share",
            ),
            ("<memory model='nvdimm'><source><path>/srv/nv</path></source></memory>", "!nvdimm memory /srv/nv"),
            (
                "<memory model='virtio-pmem'><source><path>/srv/pm</path></source></memory>",
                "!virtio-pmem memory /srv/pm",
            ),
            (
                "<tpm><backend type='passthrough'><device path='/dev/tpm1'/></backend></tpm>",
                "!TPM of the host /dev/tpm1",
            ),
            (
                "<tpm><backend type='external'><source type='unix' mode='connect' path='/run/tpm.sock'/></backend></tpm>",
                "!TPM emulator at /run/tpm.sock",
            ),
        ] {
            assert_eq!(found("", device), [expected], "{device}");
        }
        let saved = "<tpm><backend type='emulator'/></tpm><memory model='dimm'><target/></memory><disk/><interface/>\
                     <hostdev mode='capabilities'/>";
        assert_eq!(found("", saved), Vec::<String>::new());
    }

    #[test]
    fn variables_on_the_network_are_named() {
        let network = "<os><nvram type='network'><source protocol='nbd' name='vars'/></nvram></os>";
        assert_eq!(found(network, ""), ["!UEFI variables (network vars)"]);
        assert_eq!(found("<os><nvram type='block'><source dev='/dev/x'/></nvram></os>", ""), Vec::<String>::new());
        assert_eq!(found("<os><nvram>/x</nvram></os>", ""), Vec::<String>::new());
    }

    #[test]
    fn storage_in_arguments_is_named_without_secrets() {
        let arguments = |words: &[&str]| {
            let words: String =
                words.iter().map(|word| format!("<qemu:arg value='{}'/>", super::super::edits::escape(word))).collect();
            found(&format!("<qemu:commandline>{words}</qemu:commandline>"), "")
        };
        let prefix = "!storage in QEMU arguments: ";
        for (words, expected) in [
            (&["-drive", "file=/srv/x.qcow2,if=virtio"][..], "-drive /srv/x.qcow2"),
            (&["--drive", "file=rbd:p/x:key=SECRET"], "-drive"),
            (&["-blockdev", "{\"driver\":\"file\",\"filename\":\"/srv/x\"}"], "-blockdev /srv/x"),
            (&["-hda", "/srv/x"], "-hda /srv/x"),
            (&["-object", "memory-backend-file,id=m,mem-path=/srv/m"], "-object /srv/m"),
        ] {
            assert_eq!(arguments(words), [format!("{prefix}{expected}")], "{words:?}");
        }
        assert_eq!(arguments(&["-device", "virtio-rng-pci", "-object", "rng-random,id=r"]), Vec::<String>::new());
    }
}
