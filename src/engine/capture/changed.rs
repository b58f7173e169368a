//! Compares a domain's disks before and after its capture, and describes a change that the capture did not cause. Must not ask libvirt.

use crate::hypervisor::Overlay;
use crate::model::{Disk, Domain, Image};

/// Describes what happened to the domain, unless `after` is `before` with just these overlays. Disks can be attached,
/// detached or moved to another image at any time without notice, so every capture compares.
pub(super) fn changed(before: &Domain, after: &Domain, overlays: &[Overlay]) -> Option<String> {
    if before.state.is_active() != after.state.is_active() {
        return Some(format!("the guest was turned {}", if after.state.is_active() { "on" } else { "off" }));
    }
    for disk in &before.disks {
        let target = &disk.target;
        let Some(now) = find(after, target) else { return Some(format!("disk {target} was detached")) };
        let overlay = overlays.iter().find(|overlay| overlay.target == *target);
        let is_on_top = overlay.is_none_or(|overlay| now.image.source.path() == Some(&overlay.path));
        let above = usize::from(overlay.is_some());
        if !is_on_top || !chain(now).skip(above).map(place).eq(chain(disk).map(place)) {
            return Some(format!("disk {target} was moved to {}", shown(now)));
        }
    }
    let new = after.disks.iter().find(|disk| find(before, &disk.target).is_none());
    new.map(|disk| format!("disk {} was attached", disk.target))
}

fn find<'a>(domain: &'a Domain, target: &str) -> Option<&'a Disk> {
    domain.disks.iter().find(|disk| disk.target == target)
}

fn chain(disk: &Disk) -> impl Iterator<Item = &Image> {
    std::iter::once(&disk.image).chain(&disk.backing)
}

fn place(image: &Image) -> &crate::model::Source {
    &image.source
}

fn shown(disk: &Disk) -> String {
    let paths: Vec<_> =
        chain(disk).filter_map(|image| image.source.path()).map(|path| path.display().to_string()).collect();
    if paths.is_empty() { "another source".to_owned() } else { paths.join(" over ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypervisor::domain_xml;
    use crate::model::{DomainState, DomainXml};

    /// A domain with these disks: the target and its images, the active one first.
    fn domain(state: DomainState, disks: &[(&str, &[&str])]) -> Domain {
        let layer = |below: String, path: &&str| {
            format!("<backingStore type='file'><format type='qcow2'/><source file='{path}'/>{below}</backingStore>")
        };
        let disk = |(target, images): &(&str, &[&str])| {
            let below = images[1..].iter().rev().fold(String::new(), layer);
            let path = images[0];
            format!("<disk type='file'><source file='{path}'/>{below}<target dev='{target}'/></disk>")
        };
        let disks: String = disks.iter().map(disk).collect();
        let uuid = uuid::Uuid::nil();
        let xml = format!("<domain><name>a</name><uuid>{uuid}</uuid><devices>{disks}</devices></domain>");
        let xml = DomainXml { live: xml.clone(), inactive: xml, migratable: String::new() };
        domain_xml::read(xml, state, true).unwrap().domain
    }

    #[test]
    fn changes_other_than_planned_overlays_are_detected() {
        let running = |disks: &[(&str, &[&str])]| domain(DomainState::Running, disks);
        let before = running(&[("vda", &["/a", "/base"]), ("vdb", &["/b"])]);
        let base = before.disks[0].image.clone();
        let overlays = [Overlay { target: "vda".into(), path: "/a.o".into(), base, saved: None, marks: None }];
        let told = |after: &Domain| changed(&before, after, &overlays);
        assert_eq!(told(&running(&[("vdb", &["/b"]), ("vda", &["/a.o", "/a", "/base"])])), None);
        assert_eq!(changed(&before, &before, &[]), None);
        let paused = domain(DomainState::Paused, &[("vda", &["/a.o", "/a", "/base"]), ("vdb", &["/b"])]);
        assert_eq!(told(&paused), None);

        for (disks, words) in [
            (&[("vda", &["/a", "/base"][..]), ("vdb", &["/b"])][..], "disk vda was moved to /a over /base"),
            (&[("vda", &["/a.o", "/x"]), ("vdb", &["/b"])], "disk vda was moved to /a.o over /x"),
            (&[("vda", &["/a.o", "/a"]), ("vdb", &["/b"])], "disk vda was moved to /a.o over /a"),
            (&[("vda", &["/a.o", "/a", "/base"]), ("vdb", &["/b.o", "/b"])], "disk vdb was moved to /b.o over /b"),
            (&[("vda", &["/a.o", "/a", "/base"])], "disk vdb was detached"),
            (&[("vda", &["/a.o", "/a", "/base"]), ("vdb", &["/b"]), ("vdc", &["/c"])], "disk vdc was attached"),
        ] {
            assert_eq!(told(&running(disks)).as_deref(), Some(words));
        }
        let off = domain(DomainState::Off, &[("vda", &["/a.o"]), ("vdb", &["/b"])]);
        assert_eq!(told(&off).as_deref(), Some("the guest was turned off"));
        assert_eq!(changed(&off, &before, &[]).as_deref(), Some("the guest was turned on"));
    }
}
