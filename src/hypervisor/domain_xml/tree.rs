//! Parses domain XML within limits, and finds elements in the tree. Must not know what the elements mean.

use roxmltree::{Document, Node, ParsingOptions};

use super::Error;

/// The longest string that libvirt sends: `VIR_NET_MESSAGE_STRING_MAX` in its `src/rpc/virnetprotocol.x`.
const MAX_BYTES: usize = 4 << 20;

/// The deepest nesting that libvirt's parser accepts: `xmlParserMaxDepth` in `parserInternals.h` of libxml2.
const MAX_DEPTH: usize = 256;

/// Parses a definition with bounded memory; hostile input is an error.
pub fn parse(xml: &str) -> Result<Document<'_>, Error> {
    if xml.len() > MAX_BYTES {
        return Err(Error::TooLong { bytes: xml.len(), limit: MAX_BYTES });
    }
    let options = ParsingOptions { allow_dtd: false, nodes_limit: MAX_BYTES as u32 / 4, ..ParsingOptions::default() };
    let document = Document::parse_with_options(xml, options).map_err(Error::Parse)?;
    check_depth(&document)?;
    let root = document.root_element();
    if !is(root, "domain") {
        return Err(Error::NotADomain { found: root.tag_name().name().to_owned() });
    }
    Ok(document)
}

/// Works in one pass, because `descendants` visits nodes in the order of their ids, and parents first.
fn check_depth(document: &Document<'_>) -> Result<(), Error> {
    let mut depths: Vec<u16> = Vec::new();
    for node in document.descendants() {
        let depth = match node.parent().and_then(|parent| depths.get(parent.id().get_usize())) {
            Some(depth) => depth + 1,
            None => 0,
        };
        if usize::from(depth) > MAX_DEPTH {
            return Err(Error::TooDeep { limit: MAX_DEPTH });
        }
        depths.push(depth);
    }
    Ok(())
}

/// Whether the node is this element. Elements in namespaces are not libvirt's.
pub fn is(node: Node<'_, '_>, name: &str) -> bool {
    node.is_element() && node.tag_name().namespace().is_none() && node.tag_name().name() == name
}

/// The children with this name.
pub fn all<'a, 'i>(node: Node<'a, 'i>, name: &'static str) -> impl Iterator<Item = Node<'a, 'i>> {
    node.children().filter(move |child| is(*child, name))
}

/// The first element at this path of names.
pub fn at<'a, 'i>(node: Node<'a, 'i>, path: &[&'static str]) -> Option<Node<'a, 'i>> {
    path.iter().try_fold(node, |node, name| all(node, name).next())
}

/// The text of the first element at this path; `None` if it is empty.
pub fn text<'a>(node: Node<'a, '_>, path: &[&'static str]) -> Option<&'a str> {
    at(node, path)?.text().map(str::trim).filter(|text| !text.is_empty())
}

/// An attribute of the first element at this path; `None` if it is empty.
pub fn attribute<'a>(node: Node<'a, '_>, path: &[&'static str], name: &str) -> Option<&'a str> {
    at(node, path)?.attribute(name).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_documents_are_errors() {
        let many = MAX_BYTES / 7 - 10;
        let deep = format!("<domain>{}{}</domain>", "<a>".repeat(many), "</a>".repeat(many));
        assert!(matches!(parse(&deep), Err(Error::TooDeep { .. })));
        assert!(matches!(parse(&" ".repeat(MAX_BYTES + 1)), Err(Error::TooLong { .. })));
        let laughs = "<!DOCTYPE domain [<!ENTITY a 'ha'>]><domain>&a;</domain>";
        assert!(matches!(parse(laughs), Err(Error::Parse(_))));
        assert!(matches!(parse("<network/>"), Err(Error::NotADomain { .. })));
        assert!(matches!(parse("<domain xmlns='urn:x'/>"), Err(Error::NotADomain { .. })));
        assert!(matches!(parse("<domain>"), Err(Error::Parse(_))));
    }

    #[test]
    fn depth_that_libvirt_accepts_is_accepted() {
        let nested = format!("<domain>{}{}</domain>", "<a>".repeat(200), "</a>".repeat(200));
        assert!(parse(&nested).is_ok());
    }
}
