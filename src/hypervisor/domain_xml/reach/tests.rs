//! Tests that usual parts are not reported and everything else is.

use super::*;
use crate::hypervisor::domain_xml::tree::parse;

fn found(inside: &str, devices: &str) -> Vec<(String, bool)> {
    let xml = format!("<domain><name>web</name>{inside}<devices>{devices}</devices></domain>");
    let known = Known { disks: BTreeSet::from(["vda"]), files: BTreeSet::from(["/img/cd.iso", "/img/vars"]) };
    let document = parse(&xml).unwrap();
    reaches(document.root_element(), &known).into_iter().map(|reach| (reach.text, reach.is_usual)).collect()
}

/// Devices of a typical guest of virt-manager.
const ORDINARY: &str = "<emulator>/usr/bin/qemu-system-x86_64</emulator>\
    <disk type='file' device='disk'><driver name='qemu' type='qcow2' discard='unmap'/><source file='/img/web.qcow2'/>\
    <target dev='vda' bus='virtio'/><iotune><total_bytes_sec>1</total_bytes_sec></iotune><address type='pci' slot='0x04'/></disk>\
    <disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='/img/cd.iso'/><target dev='sda' bus='sata'/>\
    <readonly/></disk><controller type='pci' index='1' model='pcie-root-port'><model name='pcie-root-port'/><target chassis='1'/>\
    </controller><serial type='pty'><target type='isa-serial' port='0'><model name='isa-serial'/></target></serial>\
    <channel type='unix'><source mode='bind' path='/var/lib/libvirt/qemu/channel/target/domain-1-web/org.qemu.guest_agent.0'/>\
    <target type='virtio' name='org.qemu.guest_agent.0'/></channel><input type='tablet' bus='usb'/>\
    <tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>\
    <graphics type='vnc' port='-1' autoport='yes' listen='127.0.0.1'><listen type='address' address='127.0.0.1'/></graphics>\
    <audio id='1' type='none'/><video><model type='virtio' heads='1' primary='yes'/></video><memballoon model='virtio'/>\
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng><panic model='isa'/>";

const ORDINARY_PARTS: &str = "<memory unit='KiB'>1</memory><vcpu placement='static' cpuset='0-1'>2</vcpu>\
    <cputune><vcpupin vcpu='0' cpuset='0'/><shares>9</shares></cputune><memoryBacking><hugepages/></memoryBacking>\
    <resource><partition>/machine</partition></resource><os><type arch='x86_64' machine='q35'>hvm</type>\
    <loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE.fd</loader><nvram>/img/vars</nvram><boot dev='hd'/></os>\
    <features><acpi/><hyperv><relaxed state='on'/></hyperv></features><cpu mode='host-passthrough'><topology cores='2'/></cpu>\
    <clock offset='utc'><timer name='rtc' tickpolicy='catchup'/></clock><pm><suspend-to-mem enabled='no'/></pm>\
    <seclabel type='dynamic' model='apparmor' relabel='yes'/><metadata><x:y xmlns:x='urn:x'>/any</x:y></metadata>";

#[test]
fn parts_of_typical_guests_are_unreported_or_marked_as_usual() {
    assert_eq!(found(ORDINARY_PARTS, ORDINARY), []);
    for (interface, told) in [
        (
            "<interface type='bridge'><mac address='5'/><source bridge='br0'/><model type='virtio'/></interface>",
            "bridge='br0'",
        ),
        (
            "<interface type='network'><source network='default' portgroup='a'/></interface>",
            "network='default' portgroup='a'",
        ),
        (
            "<interface type='direct'><source dev='eth0' mode='bridge'/><target dev='m'/></interface>",
            "dev='eth0' mode='bridge'",
        ),
    ] {
        assert_eq!(found("", interface), [(format!("interface: {told}"), true)]);
    }
    assert_eq!(found("<os><nvram>/var/lib/libvirt/qemu/nvram/web_VARS.fd</nvram></os>", ""), []);
}

#[test]
fn all_other_parts_are_reported() {
    for (inside, told) in [
        ("<seclabel type='none' model='apparmor'/>", "seclabel: type='none' model='apparmor'"),
        (
            "<seclabel type='static' relabel='no'><label>root</label></seclabel>",
            "seclabel: type='static' relabel='no' label='root'",
        ),
        ("<seclabel type='dynamic' relabel='no'/>", "seclabel: type='dynamic' relabel='no'"),
        (
            "<cputune><vcpusched vcpus='0' scheduler='fifo' priority='99'/></cputune>",
            "cputune: vcpus='0' scheduler='fifo' priority='99'",
        ),
        ("<memoryBacking><locked/></memoryBacking>", "memoryBacking: locked=''"),
        ("<resource><partition>/other</partition></resource>", "resource: partition='/other'"),
        ("<os><kernel>/boot/vmlinuz</kernel></os>", "os: kernel='/boot/vmlinuz'"),
        (
            "<os><nvram>/var/lib/libvirt/qemu/nvram/other_VARS.fd</nvram></os>",
            "os: nvram='/var/lib/libvirt/qemu/nvram/other_VARS.fd'",
        ),
        ("<os><nvram type='network'><source protocol='nbd' name='v'/></nvram></os>", "os: protocol='nbd' name='v'"),
        ("<sysinfo type='fwcfg'><entry name='a' file='/etc/shadow'/></sysinfo>", "sysinfo: file='/etc/shadow'"),
        ("<later/>", "later: later=''"),
        ("<x:commandline xmlns:x='urn:q'><x:arg value='-S'/></x:commandline>", "commandline of urn:q: value='-S'"),
    ] {
        assert_eq!(found(inside, ""), [(told.to_owned(), false)], "{inside}");
    }
    for (device, told) in [
        ("<graphics type='vnc' listen='0.0.0.0' passwd='secret'/>", "graphics: type='vnc' listen='0.0.0.0' passwd='…'"),
        (
            "<graphics type='spice'><listen type='address' address='::'/></graphics>",
            "graphics: type='spice' type='address' address='::'",
        ),
        (
            "<graphics type='vnc'><listen type='network' network='n'/></graphics>",
            "graphics: type='vnc' type='network' network='n'",
        ),
        ("<graphics type='vnc' socket='/tmp/s'/>", "graphics: socket='/tmp/s'"),
        ("<graphics type='sdl' display=':0' xauth='x'/>", "graphics: type='sdl' display=':0' xauth='x'"),
        ("<interface type='ethernet'><target dev='eth0'/></interface>", "interface: type='ethernet' dev='eth0'"),
        (
            "<interface type='bridge'><source bridge='b'/><script path='s'/></interface>",
            "interface: bridge='b' path='s'",
        ),
        (
            "<input type='evdev'><source dev='/dev/input/event1'/></input>",
            "input: type='evdev' dev='/dev/input/event1'",
        ),
        (
            "<serial type='tcp'><source mode='bind' host='0' service='1'/></serial>",
            "serial: type='tcp' mode='bind' host='0' service='1'",
        ),
        (
            "<channel type='unix'><source mode='connect' path='p'/></channel>",
            "channel: type='unix' mode='connect' path='p'",
        ),
        ("<channel type='unix'><source mode='bind' path='/run/x'/></channel>", "channel: path='/run/x'"),
        ("<console type='pty'><log file='/etc/cron.d/x'/></console>", "console: file='/etc/cron.d/x'"),
        ("<disk rawio='yes'><target dev='vda'/></disk>", "disk vda: rawio='yes'"),
        ("<disk type='file'><source file='/img/other'/><target dev='vdb'/></disk>", "disk vdb: file='/img/other'"),
        (
            "<disk type='network'><source protocol='nbd' name='x'/><target dev='sdb'/></disk>",
            "disk sdb: protocol='nbd' name='x'",
        ),
        (
            "<disk type='file'><driver type='vmdk'/><source file='/img/cd.iso'/><target dev='sdb'/></disk>",
            "disk sdb: file='/img/cd.iso'",
        ),
        (
            "<disk><driver type='raw'/><source file='/img/cd.iso'/><backingStore type='file'><source file='/x'/></backingStore>\
             <target dev='sdb'/></disk>",
            "disk sdb: type='file' file='/x'",
        ),
        (
            "<tpm><backend type='passthrough'><device path='/dev/tpm0'/></backend></tpm>",
            "tpm: type='passthrough' path='/dev/tpm0'",
        ),
        ("<rng><backend model='egd' type='udp'/></rng>", "rng: model='egd' type='udp'"),
        ("<memory model='nvdimm'><source><path>/dev/pmem0</path></source></memory>", "memory: path='/dev/pmem0'"),
        ("<audio type='pulseaudio' serverName='s'/>", "audio: type='pulseaudio' serverName='s'"),
        ("<filesystem><source dir='/'/></filesystem>", "filesystem: dir='/'"),
        ("<hostdev><source><vendor id='1'/></source></hostdev>", "hostdev: id='1'"),
    ] {
        assert_eq!(found("", device), [(told.to_owned(), false)], "{device}");
    }
}

#[test]
fn parts_are_the_same_only_if_their_xml_is_identical() {
    let of = |xml: &str| reaches(parse(xml).unwrap().root_element(), &Known::default());
    let long = "x".repeat(200);
    let one = of(&format!("<domain><later a='{long}1'/></domain>"));
    let other = of(&format!("<domain><later a='{long}2'/></domain>"));
    assert!(one[0].text == other[0].text && !one[0].is_same(&other[0]) && one[0].is_same(&one[0].clone()));
}
