//! Reports everything on the host that a definition uses, so that a foreign archive cannot hide anything. Must not judge or
//! change it.
//!
//! An allow-list contains what is known to stay inside the guest. Everything else is reported, including elements that later
//! versions of libvirt add.

use std::collections::BTreeSet;
use std::net::IpAddr;

use roxmltree::Node;

use super::tree::{at, is, text};
use crate::model::misleads;

mod lists;
#[cfg(test)]
mod tests;

use lists::{ATTRIBUTES, NAMES, PARTS, TREES, USUAL};

/// The longest value that is shown, in characters.
const SHOWN: usize = 160;

/// What the restore knows about a definition.
#[derive(Debug, Default)]
pub struct Known<'a> {
    /// Targets of the disks whose images the restore writes.
    pub disks: BTreeSet<&'a str>,
    /// Paths of other files that the restore writes, or that the guest may use as they are.
    pub files: BTreeSet<&'a str>,
}

/// A device or another part of a definition that refers to something outside the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// Description that is safe to print.
    pub text: String,
    /// Whether nearly every guest has it: a libvirt network, a bridge.
    pub is_usual: bool,
    /// The unchanged XML of the part.
    xml: String,
}

impl Reach {
    /// Whether both parts have the same XML.
    pub fn is_same(&self, other: &Reach) -> bool {
        self.xml == other.xml
    }
}

/// All of them, in the order of the XML.
pub fn reaches(domain: Node<'_, '_>, known: &Known<'_>) -> Vec<Reach> {
    let mut seen = BTreeSet::new();
    let mut reaches = Vec::new();
    let own = text(domain, &["name"]).unwrap_or_default();
    // Each device is reported separately, every other child of the domain as a whole.
    for part in
        elements(domain).flat_map(|part| if is(part, "devices") { elements(part).collect() } else { vec![part] })
    {
        let mut found = Found { known, own, values: Vec::new(), is_usual: true };
        found.part(part);
        let Found { values, is_usual, .. } = found;
        // A console repeats the values of its serial port.
        if !values.is_empty() && seen.insert(values.clone()) {
            let shown: Vec<String> = values.iter().map(Value::shown).collect();
            let xml = part.document().input_text().get(part.range()).unwrap_or_default().to_owned();
            reaches.push(Reach { text: format!("{}: {}", label(part), shown.join(" ")), is_usual, xml });
        }
    }
    reaches
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Value<'a> {
    name: &'a str,
    value: &'a str,
}

impl Value<'_> {
    fn shown(&self) -> String {
        format!("{}='{}'", self.name, shown(self.value))
    }
}

/// The reported values of one part.
struct Found<'a, 'k> {
    known: &'k Known<'k>,
    own: &'k str,
    values: Vec<Value<'a>>,
    is_usual: bool,
}

impl<'a> Found<'a, '_> {
    fn part(&mut self, part: Node<'a, '_>) {
        match PARTS.iter().find(|(known, _)| is(part, known)) {
            _ if is(part, "metadata") => {}
            Some((_, inside)) if is_of_usual_kind(part) => self.walk(part, inside, false),
            _ => self.all(part),
        }
    }

    /// Reports the paths in a known element; its other values are choices and numbers.
    fn walk(&mut self, node: Node<'a, '_>, inside: &[&str], in_tree: bool) {
        let attributes = ATTRIBUTES.iter().find(|(name, _)| is(node, name)).map(|(_, known)| *known);
        for attribute in node.attributes() {
            let is_known = attributes.is_none_or(|known| known.contains(&attribute.name()));
            if !is_known || attribute.namespace().is_some() || self.is_foreign_path(attribute.value()) {
                self.push(attribute.name(), attribute.value());
            }
        }
        let name = node.tag_name().name();
        if let Some(text) =
            node.text().map(str::trim).filter(|text| !NAMES.contains(&name) && self.is_foreign_path(text))
        {
            self.push(name, text);
        }
        let in_tree = in_tree || TREES.contains(&name);
        for child in elements(node) {
            let name = child.tag_name().name();
            let is_known = child.tag_name().namespace().is_none() && (in_tree || inside.contains(&name));
            match () {
                () if is(child, "source") && is(node, "disk") => self.disk_source(node, child),
                () if is(child, "source") && is(node, "interface") => {
                    let usual = self.is_usual;
                    self.all(child);
                    self.is_usual = usual;
                }
                () if is(child, "backingStore") && elements(child).next().is_none() => {}
                () if is_known => self.walk(child, inside, in_tree),
                () => self.all(child),
            }
        }
    }

    /// A restored disk gets a new image. Any other disk uses what exists at its path on this host.
    fn disk_source(&mut self, disk: Node<'a, '_>, source: Node<'a, '_>) {
        let is_restored = target(disk).is_some_and(|target| self.known.disks.contains(target));
        let is_raw = at(disk, &["driver"]).and_then(|driver| driver.attribute("type")).is_none_or(|kind| kind == "raw");
        let is_known_file = disk.attribute("type").unwrap_or("file") == "file"
            && elements(source).next().is_none()
            && source.attributes().all(|attribute| match attribute.name() {
                "file" => self.known.files.contains(attribute.value()),
                name => ["index", "startupPolicy"].contains(&name),
            });
        if !(is_restored || is_raw && is_known_file) {
            self.all(source);
        }
    }

    /// Reports all values of an unknown element.
    fn all(&mut self, node: Node<'a, '_>) {
        let before = self.values.len();
        // The address and target of a device exist only inside the guest.
        let is_guests = |child: &Node<'_, '_>| {
            let own = child.ancestors().find(|above| above.parent() == Some(node));
            let names: &[&str] =
                if is(node, "interface") { &["address", "alias"] } else { &["address", "alias", "target"] };
            node.parent().is_some_and(|above| is(above, "devices"))
                && own.is_some_and(|own| names.iter().any(|name| is(own, name)))
        };
        for node in node.descendants().filter(|child| child.is_element() && !is_guests(child)) {
            for attribute in node.attributes() {
                self.push(attribute.name(), attribute.value());
            }
            // An HTTP cookie is a secret.
            let text = node.text().map(str::trim).filter(|text| !text.is_empty() && !is(node, "cookie"));
            if let Some(text) = text {
                self.push(node.tag_name().name(), text);
            }
        }
        if self.values.len() == before {
            self.push(node.tag_name().name(), "");
        }
    }

    fn push(&mut self, name: &'a str, value: &'a str) {
        // The password for VNC or SPICE is a secret.
        let value = if name == "passwd" { "…" } else { value };
        self.is_usual = false;
        self.values.push(Value { name, value });
    }

    fn is_foreign_path(&self, value: &str) -> bool {
        let own_variables =
            || value.strip_prefix(lists::VARIABLES).is_some_and(|name| name.starts_with(&format!("{}_VARS", self.own)));
        let is_usual = USUAL.iter().any(|usual| value.starts_with(usual)) || value == "/machine" || own_variables();
        value.starts_with('/') && (value.contains("/../") || !is_usual) && !self.known.files.contains(value)
    }
}

/// Whether connections of this kind of device stay inside the guest or end at libvirt.
fn is_of_usual_kind(part: Node<'_, '_>) -> bool {
    let kind = part.attribute("type").unwrap_or_default();
    let of = |path: &[&'static str], name| at(part, path).and_then(|node| node.attribute(name)).unwrap_or_default();
    match part.tag_name().name() {
        "seclabel" => {
            kind == "dynamic" && part.attribute("relabel") != Some("no") && at(part, &["baselabel"]).is_none()
        }
        "interface" => ["network", "bridge", "direct", "user"].contains(&kind),
        "graphics" => ["vnc", "spice", "egl-headless"].contains(&kind) && is_local(part),
        "input" => ["mouse", "tablet", "keyboard"].contains(&kind),
        "audio" => ["none", "spice"].contains(&kind),
        "redirdev" => kind == "spicevmc",
        "smartcard" => part.attribute("mode") == Some("passthrough") && kind == "spicevmc",
        "serial" | "console" | "parallel" | "channel" => match kind {
            "pty" | "stdio" | "spicevmc" | "qemu-vdagent" | "null" | "" => true,
            "unix" => of(&["source"], "mode") != "connect",
            _ => false,
        },
        "tpm" => of(&["backend"], "type") == "emulator",
        "rng" => ["random", "builtin"].contains(&of(&["backend"], "model")),
        "crypto" => of(&["backend"], "model") == "builtin",
        _ => true,
    }
}

/// Whether only this host can connect to the graphics device.
fn is_local(graphics: Node<'_, '_>) -> bool {
    let is_loopback =
        |address: &str| address == "localhost" || address.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
    graphics.attribute("listen").is_none_or(is_loopback)
        && elements(graphics).filter(|node| is(*node, "listen")).all(|listen| match listen.attribute("type") {
            Some("address") | None => listen.attribute("address").is_none_or(is_loopback),
            Some("none" | "socket") => true,
            Some(_) => false,
        })
}

fn elements<'a, 'i>(node: Node<'a, 'i>) -> impl Iterator<Item = Node<'a, 'i>> {
    node.children().filter(Node::is_element)
}

fn target<'a>(part: Node<'a, '_>) -> Option<&'a str> {
    at(part, &["target"]).and_then(|target| target.attribute("dev"))
}

fn label(part: Node<'_, '_>) -> String {
    let name = part.tag_name();
    match (target(part), name.namespace()) {
        (Some(target), _) if is(part, "disk") => format!("disk {}", shown(target)),
        (_, Some(namespace)) => format!("{} of {}", name.name(), shown(namespace)),
        _ => name.name().to_owned(),
    }
}

/// Makes a value safe for a terminal: no control characters, and none that change the direction of text.
fn shown(value: &str) -> String {
    let safe = |c| if misleads(c) { char::REPLACEMENT_CHARACTER } else { c };
    let short: String = value.chars().take(SHOWN).map(safe).collect();
    if value.chars().nth(SHOWN).is_some() { format!("{short}…") } else { short }
}
