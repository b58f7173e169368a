//! Reads disks out of a domain's XML.

use std::collections::BTreeMap;
use std::path::PathBuf;

use roxmltree::{Document, Node};

/// The source of each disk, by target; None for an empty drive.
pub(super) fn disk_sources(xml: &str) -> BTreeMap<String, Option<PathBuf>> {
    with_disks(xml, |disk| {
        let source = child(disk, "source");
        source.and_then(|source| source.attribute("file").or(source.attribute("dev"))).map(PathBuf::from)
    })
}

/// A disk's image format, and whether it is encrypted.
pub(super) fn disk_format(xml: &str, target: &str) -> (String, bool) {
    let formats = with_disks(xml, |disk| {
        let format = child(disk, "driver").and_then(|driver| driver.attribute("type")).unwrap_or("raw");
        (format.to_owned(), disk.descendants().any(|node| node.has_tag_name("encryption")))
    });
    formats[target].clone()
}

/// The name of a disk's device in QEMU.
pub(super) fn disk_alias(xml: &str, target: &str) -> String {
    let aliases = with_disks(xml, |disk| {
        child(disk, "alias").and_then(|alias| alias.attribute("name")).unwrap_or_default().to_owned()
    });
    aliases.get(target).unwrap_or_else(|| panic!("no disk {target}")).clone()
}

fn with_disks<T>(xml: &str, value: impl Fn(Node<'_, '_>) -> T) -> BTreeMap<String, T> {
    let document = Document::parse(xml).expect("libvirt writes XML");
    let disks = document.descendants().filter(|node| node.has_tag_name("disk"));
    disks
        .map(|disk| {
            let target = child(disk, "target").and_then(|target| target.attribute("dev")).unwrap_or_default();
            (target.to_owned(), value(disk))
        })
        .collect()
}

fn child<'a, 'input>(node: Node<'a, 'input>, name: &str) -> Option<Node<'a, 'input>> {
    node.children().find(|child| child.has_tag_name(name))
}
