//! Knows which parts of a disk's source this program supports. Pure. Must not decide what happens to a disk with other parts.

use roxmltree::Node;

use super::tree::{at, is};

/// Attributes that are supported, or that do not affect what the guest sees.
const ATTRIBUTES: [&str; 6] = ["file", "dev", "pool", "volume", "startupPolicy", "index"];
/// The same for elements. Of `encryption`, only its presence matters.
const ELEMENTS: [&str; 4] = ["encryption", "seclabel", "reservations", "privateData"];

/// The first unsupported part in the source of a disk or backing image. Such a part makes the guest's disk something else
/// than the file or device of the source: for example, `<slices>` selects a range of the file.
///
/// This is an allow-list, so that additions of later versions of libvirt are not overlooked. Only files, devices and volumes
/// are checked, because all other sources are left to QEMU.
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
    fn usual_sources_are_supported() {
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
    fn unsupported_parts_of_a_source_are_reported() {
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
