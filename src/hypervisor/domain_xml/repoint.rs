//! Changes one disk of a definition back to the image below its overlay. Pure. Must not change anything else: unlike after a
//! restore, the domain stays the same.

use roxmltree::{Document, Node};

use super::Error;
use super::edits::{Edits, escape};
use super::rewrite::as_text;
use super::tree::{all, at, attribute, parse};
use crate::model::{Image, Source};

/// The children of `<disk>` that describe its images. All others describe the device.
const OF_IMAGES: [&str; 4] = ["source", "backingStore", "auth", "encryption"];

/// The unchanged text of the `<disk>` element with this target.
pub fn disk_text<'x>(xml: &'x str, target: &str) -> Result<&'x str, Error> {
    let document = parse(xml)?;
    let range = disk_at(&document, target)?.range();
    Ok(xml.get(range).unwrap_or_default())
}

/// Whether the disk `target` has the same images in a definition and in a saved `<disk>` element.
pub fn has_images_of(xml: &str, target: &str, saved: &str) -> Result<bool, Error> {
    let (now, saved_xml) = (parse(xml)?, enclosed(saved));
    let saved = parse(&saved_xml)?;
    Ok(Images::of_disk(xml, disk_at(&now, target)?) == Images::of_disk(&saved_xml, disk_at(&saved, target)?))
}

/// Changes the disk `target` back to its image. Every byte that does not describe images stays.
///
/// `saved` is the `<disk>` element from before the snapshot, which is restored byte by byte. Journals of older releases do
/// not have it. Then the layer directly below becomes the disk, if it is `image`. Otherwise path, type and format are set
/// from `image`, which must be a file or a block device.
///
/// Fails if the XML is not a domain or has no such target, or if XML cannot represent the path.
pub fn repoint(xml: &str, target: &str, saved: Option<&str>, image: &Image) -> Result<String, Error> {
    let document = parse(xml)?;
    let disk = disk_at(&document, target)?;
    let mut edits = Edits::new(xml);
    if let Some(saved) = saved {
        let saved_xml = enclosed(saved);
        let saved = parse(&saved_xml)?;
        Images::of_disk(&saved_xml, disk_at(&saved, target)?).put(&mut edits, disk);
    } else if let Some(layer) = at(disk, &["backingStore"]).filter(|layer| is_on(*layer, image)) {
        Images::of_layer(xml, layer).put(&mut edits, disk);
    } else {
        put_on_path(&mut edits, disk, target, image)?;
    }
    Ok(edits.apply())
}

/// For a disk with unknown layers.
fn put_on_path(edits: &mut Edits<'_>, disk: Node<'_, '_>, target: &str, image: &Image) -> Result<(), Error> {
    let (kind, name, path) = match &image.source {
        Source::File(path) => ("file", "file", path),
        Source::Block(path) => ("block", "dev", path),
        Source::Network(_) | Source::Unsupported(_) | Source::Empty => {
            return Err(Error::Place { target: target.to_owned() });
        }
    };
    let source = at(disk, &["source"]).ok_or_else(|| Error::NoSuchDisk { target: target.to_owned() })?;
    edits.set(disk, "type", kind);
    edits.set(source, name, as_text(path)?);
    ["file", "dev"].into_iter().filter(|other| *other != name).for_each(|other| edits.unset(source, other));
    put_format(edits, disk, image.format.driver(), None);
    Ok(())
}

/// The text of the XML that describes the images of a disk.
#[derive(PartialEq, Eq)]
struct Images<'x> {
    kind: &'x str,
    format: &'x str,
    cache: Option<&'x str>,
    /// Elements by name; `None` removes an element. Others stay.
    parts: Vec<(&'static str, Option<&'x str>)>,
}

impl<'x> Images<'x> {
    fn of_disk(xml: &'x str, disk: Node<'x, '_>) -> Images<'x> {
        Images::of(xml, disk, "driver", &OF_IMAGES)
    }

    fn of_layer(xml: &'x str, layer: Node<'x, '_>) -> Images<'x> {
        Images::of(xml, layer, "format", &["source", "backingStore"])
    }

    fn of(xml: &'x str, node: Node<'x, '_>, format: &'static str, parts: &[&'static str]) -> Images<'x> {
        let text = |path: &[&'static str]| at(node, path).and_then(|part| xml.get(part.range()));
        Images {
            kind: node.attribute("type").unwrap_or("file"),
            format: attribute(node, &[format], "type").unwrap_or("raw"),
            cache: text(&[format, "metadata_cache"]),
            parts: parts.iter().map(|name| (*name, text(&[name]))).collect(),
        }
    }

    fn put(self, edits: &mut Edits<'_>, disk: Node<'_, '_>) {
        edits.set(disk, "type", self.kind);
        put_format(edits, disk, self.format, self.cache);
        for (name, text) in self.parts {
            match (at(disk, &[name]), text) {
                (Some(part), Some(text)) => edits.replace(part, text.to_owned()),
                (Some(part), None) => edits.remove(part),
                (None, Some(text)) => edits.insert_inside(disk, text),
                (None, None) => {}
            }
        }
    }
}

/// The other attributes of the driver belong to the device, so they stay.
fn put_format(edits: &mut Edits<'_>, disk: Node<'_, '_>, format: &str, cache: Option<&str>) {
    let Some(driver) = at(disk, &["driver"]) else {
        let cache = cache.unwrap_or_default();
        let driver = format!("<driver name='qemu' type='{}'>{cache}</driver>", escape(format));
        return edits.insert_inside(disk, &driver);
    };
    edits.set(driver, "type", format);
    match (at(driver, &["metadata_cache"]), cache) {
        (Some(now), Some(cache)) => edits.replace(now, cache.to_owned()),
        (Some(now), None) => edits.remove(now),
        (None, Some(cache)) => edits.insert_inside(driver, cache),
        (None, None) => {}
    }
}

/// A minimal definition around a `<disk>` element.
fn enclosed(disk: &str) -> String {
    format!("<domain><devices>{disk}</devices></domain>")
}

fn disk_at<'a, 'i>(document: &'a Document<'i>, target: &str) -> Result<Node<'a, 'i>, Error> {
    let mut disks = all(document.root_element(), "devices").flat_map(|devices| all(devices, "disk"));
    let disk = disks.find(|disk| attribute(*disk, &["target"], "dev") == Some(target));
    disk.ok_or_else(|| Error::NoSuchDisk { target: target.to_owned() })
}

/// Whether a layer is this image. Volumes of pools and network disks always match, because they have no path to compare.
fn is_on(layer: Node<'_, '_>, image: &Image) -> bool {
    let mut paths = ["file", "dev"].iter().filter_map(|name| attribute(layer, &["source"], name));
    layer.has_attribute("type") && paths.all(|path| image.source.path().is_some_and(|image| image.as_os_str() == path))
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
        let xml = repoint(XML, "vda", None, &image(Source::File("/v/a & b".into()))).unwrap();
        let expected = XML.replace("type='qcow2' cache", "type='raw' cache").replace("/v/a.ov", "/v/a &amp; b");
        assert_eq!(xml, expected);
    }

    #[test]
    fn a_disk_returns_to_its_block_device() {
        let xml = repoint(XML, "vda", None, &image(Source::Block("/dev/vg/a".into()))).unwrap();
        let expected = XML
            .replacen("<disk type='file'", "<disk type='block'", 1)
            .replace("type='qcow2' cache", "type='raw' cache")
            .replace("<source file='/v/a.ov' index", "<source dev='/dev/vg/a' index");
        assert_eq!(xml, expected);
    }

    /// A disk as an operator defined it, and as libvirt describes it on an overlay.
    const VOLUME: &str = "<disk type='volume' device='disk'><driver name='qemu' type='raw' cache='none'><metadata_cache>\
        <max_size unit='bytes'>65536</max_size></metadata_cache></driver><source pool='p' volume='v' startupPolicy='optional'>\
        <seclabel model='dac' relabel='no'/><slices><slice type='storage' offset='1' size='2'/></slices></source>\
        <target dev='vda'/></disk>";
    const ON_OVERLAY: &str = "<disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='unsafe'/>\
        <source file='/v/v.ov'/><backingStore type='volume'><format type='raw'/><source pool='p' volume='v'/></backingStore>\
        <target dev='vda'/><iotune/></disk>";

    #[test]
    fn saved_images_are_restored_byte_for_byte_and_other_settings_stay() {
        let definition = enclosed(ON_OVERLAY);
        let anywhere = image(Source::Unsupported("volume".into()));
        let xml = repoint(&definition, "vda", Some(VOLUME), &anywhere).unwrap();
        let expected =
            VOLUME.replace("'none'", "'unsafe'").replace("<target dev='vda'/>", "<target dev='vda'/><iotune/>");
        assert_eq!(xml, enclosed(&expected));
        assert!(has_images_of(&xml, "vda", VOLUME).unwrap() && !has_images_of(&definition, "vda", VOLUME).unwrap());
        assert_eq!(repoint(&xml, "vda", Some(VOLUME), &anywhere).unwrap(), xml);
        assert_eq!(disk_text(&xml, "vda").unwrap(), expected);
    }

    #[test]
    fn without_a_saved_element_the_layer_below_becomes_the_disk() {
        let layer = |path: &str, below: &str| {
            format!(
                "<backingStore type='block'><format type='raw'><metadata_cache/></format><source dev='{path}'><seclabel/>\
                 </source>{below}</backingStore>"
            )
        };
        let base = image(Source::Block("/dev/b".into()));
        let with = |chain: &str| XML.replace("<target dev='vdb'/>", &format!("{chain}<target dev='vdb'/>"));
        for below in ["", "<backingStore/>", &layer("/dev/t", "<backingStore/>")] {
            let xml = repoint(&with(&layer("/dev/b", below)), "vdb", None, &base).unwrap();
            let expected = "<disk type='block'><driver name='qemu' type='raw'><metadata_cache/></driver>\n\
                \x20     <source dev='/dev/b'><seclabel/></source>";
            let end = format!("{below}<target dev='vdb'/>");
            assert!(xml.contains(expected) && xml.contains(&end) && !xml.contains("b.ov"), "{xml}");
        }
        // A layer that is not the base is not used.
        let xml = repoint(&with(&layer("/dev/other", "")), "vdb", None, &base).unwrap();
        assert!(xml.contains(&layer("/dev/other", "")) && xml.contains("<source dev='/dev/b'/>"), "{xml}");
        let volume = image(Source::File("/pool/v".into()));
        let xml = repoint(&enclosed(ON_OVERLAY), "vda", None, &volume).unwrap();
        assert!(xml.contains("<disk type='volume'") && xml.contains("<source pool='p' volume='v'/><target"), "{xml}");
    }

    #[test]
    fn unknown_disks_and_network_images_are_errors() {
        let base = image(Source::File("/v/b".into()));
        assert!(matches!(repoint(XML, "vdc", None, &base), Err(Error::NoSuchDisk { .. })));
        let network = image(Source::Network("rbd:a".into()));
        assert!(matches!(repoint(XML, "vda", None, &network), Err(Error::Place { .. })));
    }
}
