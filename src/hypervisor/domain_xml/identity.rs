//! Owns: making a copy of a domain another domain: what two on one host cannot both have. Must not: touch disks.

use roxmltree::Node;

use super::Error;
use super::edits::{Edits, escape, is_writable};
use super::tree::{all, at};
use crate::model::DomainRef;

/// Folders in which libvirt itself names the sockets of domains.
const LIBVIRT_FOLDERS: [&str; 3] = ["/var/lib/libvirt/", "/run/libvirt/", "/var/run/libvirt/"];

/// Gives the domain a name and a UUID, and takes out what would collide with the domain it was copied from and what
/// libvirt makes up anew when it is absent. Metadata and host devices stay: libvirt has no other to give.
pub fn renew(
    edits: &mut Edits<'_>,
    domain: Node<'_, '_>,
    to: &DomainRef,
    notes: &mut Vec<String>,
) -> Result<(), Error> {
    rename(edits, domain, to)?;
    for devices in all(domain, "devices") {
        for device in devices.children() {
            match device.tag_name().name() {
                "interface" => renew_interface(edits, device),
                "channel" => renew_channel(edits, device),
                "graphics" => renew_graphics(edits, device, notes),
                "vsock" => renew_vsock(edits, device),
                "serial" | "console" | "parallel" => renew_logs(edits, device, &to.name),
                _ => {}
            }
        }
    }
    Ok(())
}

pub fn rename(edits: &mut Edits<'_>, domain: Node<'_, '_>, to: &DomainRef) -> Result<(), Error> {
    if !is_writable(&to.name) {
        return Err(Error::Unknown { what: "the new name", value: to.name.escape_debug().to_string() });
    }
    let name = at(domain, &["name"]).ok_or_else(|| Error::Missing { what: "name".to_owned() })?;
    edits.replace(name, format!("<name>{}</name>", escape(&to.name)));
    let uuid = format!("<uuid>{}</uuid>", to.uuid);
    match at(domain, &["uuid"]) {
        Some(old) => edits.replace(old, uuid),
        None => edits.insert_after(name, &uuid),
    }
    // libvirt refuses a definition whose SMBIOS UUID is not the domain's.
    let tables = all(domain, "sysinfo").flat_map(|sysinfo| all(sysinfo, "system"));
    for entry in tables.flat_map(|system| all(system, "entry")) {
        if entry.attribute("name") == Some("uuid") {
            edits.set_text(entry, &to.uuid.to_string(), "");
        }
    }
    Ok(())
}

/// Without these, libvirt makes up a MAC address (52:54:00:… for QEMU), a tap device, and the ids of a virtual port.
fn renew_interface(edits: &mut Edits<'_>, interface: Node<'_, '_>) {
    all(interface, "mac").for_each(|mac| edits.remove(mac));
    // A tap device that libvirt does not manage was made by the operator: there is no other.
    let tap = all(interface, "target").filter(|target| target.attribute("managed") != Some("no"));
    tap.for_each(|target| edits.remove(target));
    for parameters in all(interface, "virtualport").flat_map(|port| all(port, "parameters")) {
        edits.unset(parameters, "interfaceid");
        edits.unset(parameters, "instanceid");
    }
}

fn renew_channel(edits: &mut Edits<'_>, channel: Node<'_, '_>) {
    let own = all(channel, "source").filter(|source| source.attribute("path").is_some_and(is_libvirts));
    own.for_each(|source| edits.remove(source));
}

/// Two guests cannot listen on one port, so a fixed one becomes one that libvirt chooses at the start.
fn renew_graphics(edits: &mut Edits<'_>, graphics: Node<'_, '_>, notes: &mut Vec<String>) {
    let ports = ["port", "tlsPort", "websocket"];
    if graphics.attribute("autoport") == Some("no") {
        let fixed = ports.iter().filter_map(|name| Some(format!("{name} {}", graphics.attribute(*name)?)));
        notes.push(format!("graphics: {} belongs to the original guest; libvirt will choose another", listed(fixed)));
    }
    if ports.iter().any(|name| graphics.has_attribute(*name)) {
        edits.set(graphics, "autoport", "yes");
        ports.iter().for_each(|name| edits.unset(graphics, name));
    }
    drop_sockets(edits, graphics);
}

fn drop_sockets(edits: &mut Edits<'_>, graphics: Node<'_, '_>) {
    for node in std::iter::once(graphics).chain(all(graphics, "listen")) {
        if node.attribute("socket").is_some_and(is_libvirts) {
            edits.unset(node, "socket");
        }
    }
}

/// A file that a serial line is written to is locked by the domain that writes, so the copy writes beside it.
fn renew_logs(edits: &mut Edits<'_>, device: Node<'_, '_>, name: &str) {
    let source = all(device, "source").filter(|_| device.attribute("type") == Some("file"));
    for (node, attribute) in source.map(|node| (node, "path")).chain(all(device, "log").map(|node| (node, "file"))) {
        let parts = node.attribute(attribute).and_then(|path| path.rsplit_once('/'));
        if let Some((folder, file)) = parts {
            edits.set(node, attribute, &format!("{folder}/{}-{file}", name.replace('/', "_")));
        }
    }
}

fn renew_vsock(edits: &mut Edits<'_>, vsock: Node<'_, '_>) {
    for cid in all(vsock, "cid").filter(|cid| cid.has_attribute("address")) {
        edits.set(cid, "auto", "yes");
        edits.unset(cid, "address");
    }
}

fn is_libvirts(path: &str) -> bool {
    LIBVIRT_FOLDERS.iter().any(|folder| path.starts_with(folder))
}

fn listed(words: impl Iterator<Item = String>) -> String {
    words.collect::<Vec<_>>().join(", ")
}
