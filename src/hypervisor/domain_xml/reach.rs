//! Owns: telling people what of the host a definition reaches for, so that an archive from elsewhere slips nothing in.
//! Must not: judge or change it.

use std::collections::BTreeSet;

use roxmltree::Node;

use super::tree::{at, is};

/// The longest value shown.
const SHOWN: usize = 160;

/// What every host has and every definition names.
const USUAL: [&str; 8] = [
    "/usr/bin/qemu-",
    "/usr/bin/kvm",
    "/usr/libexec/qemu-kvm",
    "/usr/share/",
    "/dev/urandom",
    "/dev/random",
    "/dev/hwrng",
    "/dev/net/tun",
];

/// One line for each device or hook of the definition that names something outside the guest, in the XML's order:
/// sources of devices, absolute paths anywhere, scripts, and elements of other namespaces (arguments for QEMU).
/// `ours` are paths that the restore itself wrote.
pub fn notes(domain: Node<'_, '_>, ours: &BTreeSet<&str>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let mut notes = Vec::new();
    let parts = domain.children().filter(|node| node.is_element() && !is(*node, "metadata"));
    // A device is told of by itself, every other part of the domain as a whole.
    for part in parts.flat_map(|part| if is(part, "devices") { elements(part) } else { vec![part] }) {
        let values = values(part, ours);
        // A console repeats the serial port it stands for.
        if !values.is_empty() && seen.insert(values.clone()) {
            notes.push(format!("{}: {}", label(part), values.join(" ")));
        }
    }
    notes
}

fn elements<'a, 'i>(node: Node<'a, 'i>) -> Vec<Node<'a, 'i>> {
    node.children().filter(Node::is_element).collect()
}

fn label(part: Node<'_, '_>) -> String {
    let name = part.tag_name();
    match (at(part, &["target"]).and_then(|target| target.attribute("dev")), name.namespace()) {
        (Some(target), _) if is(part, "disk") => format!("disk {}", shown(target)),
        (_, Some(namespace)) => format!("{} of {}", name.name(), shown(namespace)),
        _ => name.name().to_owned(),
    }
}

/// All that the part names outside the guest, as `name='value'`.
fn values(part: Node<'_, '_>, ours: &BTreeSet<&str>) -> Vec<String> {
    let foreign = part.tag_name().namespace().is_some();
    let is_telling = |node| foreign || ["source", "script", "shmem"].iter().any(|name| is(node, name));
    // The tree is walked in its order; whatever lies in a telling element tells, too.
    let mut telling_until = 0;
    let mut values = Vec::new();
    for node in part.descendants() {
        if node.is_element() && is_telling(node) {
            telling_until = telling_until.max(node.range().end);
        }
        let tells = |value: &str| (node.range().start < telling_until || is_path(value)) && !ours.contains(value);
        let attributes = node.attributes().filter(|attribute| tells(attribute.value()));
        values.extend(attributes.map(|attribute| format!("{}='{}'", attribute.name(), shown(attribute.value()))));
        // A cookie of a web server is a secret.
        let text = node.text().filter(|_| node.is_element() && !is(node, "cookie")).map(str::trim);
        let text = text.filter(|text| !text.is_empty() && tells(text));
        values.extend(text.map(|text| format!("{}='{}'", node.tag_name().name(), shown(text))));
    }
    values
}

fn is_path(value: &str) -> bool {
    value.starts_with('/') && (value.contains("/../") || !USUAL.iter().any(|usual| value.starts_with(usual)))
}

/// A value made safe for a terminal: no control characters, nothing that reverses the direction of text.
fn shown(value: &str) -> String {
    let harmful = |c: char| {
        c.is_control() || matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let safe = |c| if harmful(c) { char::REPLACEMENT_CHARACTER } else { c };
    let short: String = value.chars().take(SHOWN).map(safe).collect();
    if value.chars().nth(SHOWN).is_some() { format!("{short}…") } else { short }
}
