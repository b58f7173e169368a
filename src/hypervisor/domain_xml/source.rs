//! Owns: which parts of a disk's source this program reads itself. Pure. Must not: decide what happens to a disk with others.

use roxmltree::Node;

use super::tree::{at, is};

/// Attributes that are read, or that change nothing in what the guest sees.
const ATTRIBUTES: [&str; 6] = ["file", "dev", "pool", "volume", "startupPolicy", "index"];
/// The same of elements; encryption is read by its presence.
const ELEMENTS: [&str; 4] = ["encryption", "seclabel", "reservations", "privateData"];

/// The first part of a disk's (or a backing image's) source that this program does not read: with it, the guest's disk is
/// something else than the file or device that the source names. `<slices>` makes it a range of bytes of that file.
///
/// A list of what is known, so that what a later libvirt adds is not overlooked. Other sources than files, devices and volumes
/// are for QEMU alone anyway.
pub fn unread(image: Node<'_, '_>) -> Option<String> {
    if !matches!(image.attribute("type").unwrap_or("file"), "file" | "block" | "volume") {
        return None;
    }
    let source = at(image, &["source"])?;
    let attribute = source.attributes().find(|attribute| {
        let as_usual = attribute.name() == "mode" && attribute.value() == "host";
        attribute.namespace().is_some() || !(ATTRIBUTES.contains(&attribute.name()) || as_usual)
    });
    if let Some(attribute) = attribute {
        return Some(format!("<source {}='{}'>", attribute.name(), attribute.value()));
    }
    let element = source.children().find(|node| node.is_element() && !ELEMENTS.iter().any(|name| is(*node, name)));
    element.map(|node| format!("<{}>", node.tag_name().name()))
}

#[cfg(test)]
mod tests {
    use roxmltree::Document;

    use super::*;

    fn unread_in(disk: &str) -> Option<String> {
        unread(Document::parse(disk).unwrap().root_element())
    }

    #[test]
    fn usual_sources_are_read() {
        for disk in [
            "<disk/>",
            "<disk><source file='/a' startupPolicy='optional' index='1'><seclabel relabel='no'/><privateData/></source></disk>",
            "<disk type='block'><source dev='/dev/a'><encryption/><reservations managed='yes'/></source></disk>",
            "<disk type='volume'><source pool='p' volume='v' mode='host'/></disk>",
            "<disk type='network'><source protocol='rbd' name='p/v'><auth/><slices/></source></disk>",
            "<disk type='nvme'><source type='pci' namespace='1'><address/></source></disk>",
        ] {
            assert_eq!(unread_in(disk), None, "{disk}");
        }
    }

    #[test]
    fn everything_else_is_named() {
        for (disk, named) in [
            ("<disk><source file='/a'><slices><slice offset='1'/></slices></source></disk>", "<slices>"),
            ("<disk><source file='/a'><dataStore/></source></disk>", "<dataStore>"),
            ("<disk><source file='/a' fdgroup='disks'/></disk>", "<source fdgroup='disks'>"),
            ("<disk type='volume'><source pool='p' volume='v' mode='direct'/></disk>", "<source mode='direct'>"),
            ("<disk><source file='/a' x:y='1' xmlns:x='urn:x'/></disk>", "<source y='1'>"),
            ("<disk><source file='/a'><x:seclabel xmlns:x='urn:x'/></source></disk>", "<seclabel>"),
        ] {
            assert_eq!(unread_in(disk).as_deref(), Some(named), "{disk}");
        }
    }
}
