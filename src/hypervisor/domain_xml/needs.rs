//! Lists the objects of libvirt and the host that a definition refers to by name. Pure. Must not check whether they exist.

use std::collections::BTreeSet;

use roxmltree::Node;

use super::Error;
use super::tree::{all, at, attribute, parse, text};

/// Objects that a definition refers to by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    /// Networks of libvirt.
    pub networks: BTreeSet<String>,
    /// Network devices of the host: bridges, and devices to which guests are attached directly.
    pub links: BTreeSet<String>,
    /// Network filters of libvirt.
    pub filters: BTreeSet<String>,
    /// Storage pools of libvirt.
    pub pools: BTreeSet<String>,
    /// The CPU, if the definition names a model.
    pub cpu: Option<Cpu>,
}

/// A CPU model, and what runs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cpu {
    /// Name of the model.
    pub model: String,
    /// The `<cpu>` element.
    pub xml: String,
    /// Type of the domain (`kvm`, `qemu`).
    pub virt_type: String,
    /// Architecture (`x86_64`).
    pub arch: Option<String>,
    /// Machine type (`pc-q35-9.2`).
    pub machine: Option<String>,
    /// Path of the QEMU program.
    pub emulator: Option<String>,
}

/// Collects the names in a definition.
pub fn needs(xml: &str) -> Result<Needs, Error> {
    let document = parse(xml)?;
    let domain = document.root_element();
    let mut needs = Needs { cpu: cpu(xml, domain), ..Needs::default() };
    for device in all(domain, "devices").flat_map(|devices| devices.children()) {
        let source = |name| attribute(device, &["source"], name).map(str::to_owned);
        match (device.tag_name().name(), device.attribute("type")) {
            ("interface", Some("network")) => needs.networks.extend(source("network")),
            ("interface", Some("bridge")) => needs.links.extend(source("bridge")),
            ("interface", Some("direct")) => needs.links.extend(source("dev")),
            ("disk", Some("volume")) => needs.pools.extend(source("pool")),
            _ => {}
        }
        let filters = all(device, "filterref").filter_map(|filter| filter.attribute("filter"));
        needs.filters.extend(filters.map(str::to_owned));
    }
    Ok(needs)
}

fn cpu(xml: &str, domain: Node<'_, '_>) -> Option<Cpu> {
    let cpu = at(domain, &["cpu"])?;
    let kind = |name| attribute(domain, &["os", "type"], name).map(str::to_owned);
    Some(Cpu {
        model: text(cpu, &["model"])?.to_owned(),
        xml: xml.get(cpu.range())?.to_owned(),
        virt_type: domain.attribute("type").unwrap_or("kvm").to_owned(),
        arch: kind("arch"),
        machine: kind("machine"),
        emulator: text(domain, &["devices", "emulator"]).map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_named_object_is_listed() {
        let xml = "<domain type='kvm'><os><type arch='x86_64' machine='pc-q35-9.2'>hvm</type></os>\
            <cpu mode='custom' match='exact'><model fallback='forbid'>EPYC-Genoa</model></cpu><devices>\
            <emulator>/usr/bin/kvm</emulator><interface type='network'><source network='lan'/>\
            <filterref filter='clean-traffic'/></interface><interface type='bridge'><source bridge='br7'/></interface>\
            <interface type='direct'><source dev='eth9' mode='bridge'/></interface><interface type='user'/>\
            <disk type='volume' device='cdrom'><source pool='iso' volume='a.iso'/></disk></devices></domain>";
        let needs = needs(xml).unwrap();
        let cpu = needs.cpu.clone().unwrap();
        assert_eq!((cpu.model.as_str(), cpu.machine.as_deref()), ("EPYC-Genoa", Some("pc-q35-9.2")));
        assert!(cpu.xml.starts_with("<cpu mode") && cpu.xml.ends_with("</cpu>"));
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        assert_eq!((needs.networks, needs.links), (set(&["lan"]), set(&["br7", "eth9"])));
        assert_eq!((needs.filters, needs.pools), (set(&["clean-traffic"]), set(&["iso"])));
        assert_eq!(super::needs("<domain><cpu mode='host-model'/></domain>").unwrap(), Needs::default());
    }
}
