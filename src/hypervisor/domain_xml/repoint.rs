//! Owns: putting one disk of a definition on another image. Pure. Must not: change anything else; the domain and its
//! guest stay what they are, as against a restore.

use roxmltree::Node;

use super::Error;
use super::edits::{Edits, escape};
use super::rewrite::as_text;
use super::tree::{all, at, attribute, parse};
use crate::model::{Image, Source};

/// Puts the disk at `target` on `image`, which has to be a file or a block device: the path, the kind and the format
/// change, and every other byte stays. A chain below the disk that begins with `image` is taken out, or begins one
/// further down.
///
/// Fails on XML that is no domain's, on a target it does not have, and on a path that XML cannot hold.
pub fn repoint(xml: &str, target: &str, image: &Image) -> Result<String, Error> {
    let document = parse(xml)?;
    let mut disks = all(document.root_element(), "devices").flat_map(|devices| all(devices, "disk"));
    let disk = disks.find(|disk| attribute(*disk, &["target"], "dev") == Some(target));
    let missing = || Error::NoSuchDisk { target: target.to_owned() };
    let (disk, source) = disk.and_then(|disk| Some((disk, at(disk, &["source"])?))).ok_or_else(missing)?;
    let (kind, name, path) = match &image.source {
        Source::File(path) => ("file", "file", path),
        Source::Block(path) => ("block", "dev", path),
        Source::Network(_) | Source::None(_) => return Err(Error::Place { target: target.to_owned() }),
    };
    let path = as_text(path)?;

    let mut edits = Edits::new(xml);
    edits.set(disk, "type", kind);
    edits.set(source, name, path);
    ["file", "dev"].into_iter().filter(|other| *other != name).for_each(|other| edits.unset(source, other));
    match at(disk, &["driver"]) {
        Some(driver) => edits.set(driver, "type", image.format.driver()),
        None => {
            let driver = format!("<driver name='qemu' type='{}'/>", escape(image.format.driver()));
            edits.insert_after(source, &driver);
        }
    }
    if let Some(below) = at(disk, &["backingStore"]).filter(|below| is_on(*below, path)) {
        match at(below, &["backingStore"]).and_then(|further| xml.get(further.range())) {
            Some(further) => edits.replace(below, further.to_owned()),
            None => edits.remove(below),
        }
    }
    Ok(edits.apply())
}

fn is_on(layer: Node<'_, '_>, path: &str) -> bool {
    ["file", "dev"].iter().any(|name| attribute(layer, &["source"], name) == Some(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Format;

    const XML: &str = "<domain type='kvm'>\n  <name>a</name>\n  <genid>6a0c4a52-1111-4222-8333-444444444444</genid>\n\
        <devices>\n    <disk type='file' device='disk'>\n      <driver name='qemu' type='qcow2' cache='none'/>\n\
        \x20     <source file='/v/a.ov' index='1'>\n        <seclabel model='dac' relabel='no'/>\n      </source>\n\
        \x20     <target dev='vda' bus='virtio'/>\n    </disk>\n    <disk type='file'>\n\
        \x20     <source file='/v/b.ov'/>\n      <target dev='vdb'/>\n    </disk>\n  </devices>\n</domain>\n";

    fn image(source: Source) -> Image {
        Image { source, format: Format::Raw }
    }

    #[test]
    fn only_the_image_of_the_one_disk_changes() {
        let xml = repoint(XML, "vda", &image(Source::File("/v/a & b".into()))).unwrap();
        let expected = XML.replace("type='qcow2' cache", "type='raw' cache").replace("/v/a.ov", "/v/a &amp; b");
        assert_eq!(xml, expected);
    }

    #[test]
    fn a_block_device_is_one_again() {
        let xml = repoint(XML, "vda", &image(Source::Block("/dev/vg/a".into()))).unwrap();
        let expected = XML
            .replacen("<disk type='file'", "<disk type='block'", 1)
            .replace("type='qcow2' cache", "type='raw' cache")
            .replace("<source file='/v/a.ov' index", "<source dev='/dev/vg/a' index");
        assert_eq!(xml, expected);
    }

    #[test]
    fn a_chain_begins_below_the_image() {
        let bottom = "<backingStore type='file'><format type='raw'/><source file='/v/t'/></backingStore>";
        let layer = |below: &str| {
            format!("<backingStore type='file'><format type='raw'/><source file='/v/b'/>{below}</backingStore>")
        };
        let with = |chain: &str| XML.replace("<target dev='vdb'/>", &format!("{chain}<target dev='vdb'/>"));
        let base = image(Source::File("/v/b".into()));
        let expected = |chain: &str| {
            let driver = "<source file='/v/b'/>\n      <driver name='qemu' type='raw'/>";
            with(chain).replace("<source file='/v/b.ov'/>", driver)
        };
        assert_eq!(repoint(&with(&layer(bottom)), "vdb", &base).unwrap(), expected(bottom));
        assert_eq!(repoint(&with(bottom), "vdb", &base).unwrap(), expected(bottom));
        assert!(!repoint(&with(&layer("")), "vdb", &base).unwrap().contains("backingStore"));
    }

    #[test]
    fn what_cannot_be_is_an_error() {
        let base = image(Source::File("/v/b".into()));
        assert!(matches!(repoint(XML, "vdc", &base), Err(Error::NoSuchDisk { .. })));
        let network = image(Source::Network("rbd:a".into()));
        assert!(matches!(repoint(XML, "vda", &network), Err(Error::Place { .. })));
    }
}
