//! Owns: what one definition has and another one of the same domain lacks, in words. Pure. Must not: judge it.

use std::collections::BTreeSet;

use roxmltree::Node;

use super::Error;
use super::tree::{is, parse};

/// Lines for people: every element of `from` that `to` has not got, by its names and attributes. Addresses, aliases and what
/// other programs keep in a definition do not count; an element whose parent is told of is not told of by itself.
pub fn left_out(from: &str, to: &str) -> Result<Vec<String>, Error> {
    let (from, to) = (parse(from)?, parse(to)?);
    let known: BTreeSet<String> = elements(to.root_element()).into_iter().map(|(_, words)| words).collect();
    let mut told_until = 0;
    let mut missing = Vec::new();
    for (node, words) in elements(from.root_element()) {
        if node.range().start >= told_until && !known.contains(&words) {
            told_until = node.range().end;
            missing.push(words);
        }
    }
    Ok(missing)
}

/// The elements below the domain's own, in the order of the XML, each with its words.
fn elements<'a, 'i>(domain: Node<'a, 'i>) -> Vec<(Node<'a, 'i>, String)> {
    let counts = |node: &Node<'_, '_>| {
        node.is_element()
            && *node != domain
            && !node.ancestors().any(|above| ["metadata", "address", "alias"].iter().any(|name| is(above, name)))
    };
    domain.descendants().filter(counts).map(|node| (node, words(node, domain))).collect()
}

/// `watchdog model='itco' action='reset'`, or `features > acpi` for what lies deeper.
fn words(node: Node<'_, '_>, domain: Node<'_, '_>) -> String {
    let between = node.ancestors().skip(1).take_while(|above| *above != domain && !is(*above, "devices"));
    let mut names: Vec<&str> = between.map(|above| above.tag_name().name()).collect();
    names.reverse();
    let mut words = names.iter().map(|name| format!("{name} > ")).collect::<String>() + node.tag_name().name();
    for attribute in node.attributes() {
        words.push_str(&format!(" {}='{}'", attribute.name(), attribute.value()));
    }
    match node.text().map(str::trim) {
        Some(text) if !text.is_empty() => words + &format!(" ({text})"),
        _ => words,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_is_told_of_once_and_addresses_do_not_count() {
        let from = "<domain><features><acpi/><x y='1'/></features><devices><watchdog model='itco' action='reset'>\
            <sub/><address slot='1'/></watchdog><disk><address slot='2'/></disk></devices></domain>";
        let to = "<domain><features><acpi/></features><devices><disk><address slot='3'/></disk></devices></domain>";
        assert_eq!(left_out(from, to).unwrap(), ["features > x y='1'", "watchdog model='itco' action='reset'"]);
        assert!(left_out(to, to).unwrap().is_empty());
    }
}
