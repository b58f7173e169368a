//! Lists what one definition of a domain has and another lacks. Pure. Must not judge the differences.

use std::collections::BTreeSet;

use roxmltree::Node;

use super::Error;
use super::tree::{is, parse};

/// Describes every element of `from` that is missing in `to`, by names and attributes. Addresses, aliases and the metadata of
/// other programs do not count. An element inside a reported element is not reported again.
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

/// The elements below `<domain>` in the order of the XML, each with its description.
fn elements<'a, 'i>(domain: Node<'a, 'i>) -> Vec<(Node<'a, 'i>, String)> {
    let counts = |node: &Node<'_, '_>| {
        node.is_element()
            && *node != domain
            && !node.ancestors().any(|above| ["metadata", "address", "alias"].iter().any(|name| is(above, name)))
    };
    domain.descendants().filter(counts).map(|node| (node, words(node, domain))).collect()
}

/// `watchdog model='itco' action='reset'`, or `features > acpi` for nested elements.
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
    fn missing_elements_are_reported_once_and_addresses_do_not_count() {
        let from = "<domain><features><acpi/><x y='1'/></features><devices><watchdog model='itco' action='reset'>\
            <sub/><address slot='1'/></watchdog><disk><address slot='2'/></disk></devices></domain>";
        let to = "<domain><features><acpi/></features><devices><disk><address slot='3'/></disk></devices></domain>";
        assert_eq!(left_out(from, to).unwrap(), ["features > x y='1'", "watchdog model='itco' action='reset'"]);
        assert!(left_out(to, to).unwrap().is_empty());
    }
}
