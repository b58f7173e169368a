//! Edits XML text at places that a parser found and keeps every other byte. Must not know libvirt.

use std::ops::Range;

use roxmltree::Node;

/// Changes to one text, collected from its tree and applied together.
pub struct Edits<'x> {
    xml: &'x str,
    list: Vec<(Range<usize>, String)>,
}

impl<'x> Edits<'x> {
    pub fn new(xml: &'x str) -> Edits<'x> {
        Edits { xml, list: Vec::new() }
    }

    pub fn replace(&mut self, node: Node<'_, '_>, text: String) {
        self.list.push((node.range(), text));
    }

    /// Removes an element and the white space before it, so that no empty line stays.
    pub fn remove(&mut self, node: Node<'_, '_>) {
        self.list.push((self.with_blanks_before(node.range()), String::new()));
    }

    /// Inserts text after an element, on a separate line if the element is on one.
    pub fn insert_after(&mut self, node: Node<'_, '_>, text: &str) {
        let Range { start, end } = node.range();
        let blanks = self.with_blanks_before(start..start);
        self.list.push((end..end, format!("{}{text}", self.xml.get(blanks).unwrap_or_default())));
    }

    /// Inserts text as the first content of an element.
    pub fn insert_inside(&mut self, node: Node<'_, '_>, text: &str) {
        let Range { start, end } = node.range();
        let name = node.tag_name().name();
        let is_empty = self.xml.get(start..end).is_some_and(|element| element.ends_with("/>"));
        match node.first_child() {
            Some(child) => self.list.push((child.range().start..child.range().start, text.to_owned())),
            None if is_empty => self.list.push((end - 2..end, format!(">{text}</{name}>"))),
            None => self.list.push((end - name.len() - 3..end - name.len() - 3, text.to_owned())),
        }
    }

    /// Sets an attribute, or adds it.
    pub fn set(&mut self, node: Node<'_, '_>, name: &str, value: &str) {
        let text = format!("{name}='{}'", escape(value));
        match node.attribute_node(name) {
            Some(attribute) => self.list.push((attribute.range(), text)),
            None => {
                let behind_name = node.range().start + 1 + node.tag_name().name().len();
                self.list.push((behind_name..behind_name, format!(" {text}")));
            }
        }
    }

    /// Removes an attribute, if it exists.
    pub fn unset(&mut self, node: Node<'_, '_>, name: &str) {
        if let Some(attribute) = node.attribute_node(name) {
            self.list.push((self.with_blanks_before(attribute.range()), String::new()));
        }
    }

    /// Replaces all content of an element with text. Its attributes stay, except `without`.
    pub fn set_text(&mut self, node: Node<'_, '_>, text: &str, without: &str) {
        let name = node.tag_name().name();
        let kept = node.attributes().filter(|attribute| attribute.name() != without);
        let attributes: String =
            kept.filter_map(|attribute| Some(format!(" {}", self.xml.get(attribute.range())?))).collect();
        let text = if text.is_empty() {
            format!("<{name}{attributes}/>")
        } else {
            format!("<{name}{attributes}>{}</{name}>", escape(text))
        };
        self.replace(node, text);
    }

    /// The changed text. A change inside an element that another change removes has no effect.
    pub fn apply(mut self) -> String {
        // At the same place, insertions come before removals and replacements.
        self.list.sort_by_key(|(range, _)| (range.start, !range.is_empty()));
        let mut out = String::with_capacity(self.xml.len());
        let mut done = 0;
        for (range, text) in self.list {
            if range.start < done {
                continue;
            }
            out.push_str(self.xml.get(done..range.start).unwrap_or_default());
            out.push_str(&text);
            done = range.end;
        }
        out.push_str(self.xml.get(done..).unwrap_or_default());
        out
    }

    fn with_blanks_before(&self, range: Range<usize>) -> Range<usize> {
        let before = self.xml.get(..range.start).unwrap_or_default();
        before.trim_end_matches([' ', '\t', '\n', '\r']).len()..range.end
    }
}

/// Escapes text for XML, both for attribute values in any quotes and for element content.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&apos;"),
            '"' => out.push_str("&quot;"),
            '\t' | '\n' | '\r' => out.push_str(&format!("&#{};", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}

/// Whether XML 1.0 can represent this text: <https://www.w3.org/TR/xml/#charsets>.
pub fn is_writable(text: &str) -> bool {
    text.chars().all(|c| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{fffd}' | '\u{10000}'..))
}

#[cfg(test)]
mod tests {
    use roxmltree::Document;

    use super::*;

    #[test]
    fn bytes_outside_of_edits_are_preserved() {
        let xml = "<a>\n  <b  x=\"1\"\ty='&lt;'/> <!-- b -->\n  <c><d/></c>\n</a>";
        let document = Document::parse(xml).unwrap();
        let [b, c] = ["b", "c"].map(|name| document.descendants().find(|node| node.has_tag_name(name)).unwrap());
        let mut edits = Edits::new(xml);
        edits.set(b, "x", "it's <2>");
        edits.set(b, "new", "n");
        edits.unset(b, "y");
        edits.insert_after(b, "<e/>");
        edits.remove(c);
        edits.remove(c.first_element_child().unwrap());
        let expected = "<a>\n  <b new='n'  x='it&apos;s &lt;2&gt;'/>\n  <e/> <!-- b -->\n</a>";
        assert_eq!(edits.apply(), expected);
    }

    #[test]
    fn set_text_keeps_attributes() {
        let xml = "<a t='1' u='2'><s/>old</a>";
        let document = Document::parse(xml).unwrap();
        let mut edits = Edits::new(xml);
        edits.set_text(document.root_element(), "a & b", "u");
        assert_eq!(edits.apply(), "<a t='1'>a &amp; b</a>");
    }

    #[test]
    fn escaped_text_reads_back() {
        let text = "a'b\"c<d>e&f\tg\nh\ri \u{1f600}";
        let xml = format!("<a b='{0}'>{0}</a>", escape(text));
        let document = Document::parse(&xml).unwrap();
        assert_eq!(document.root_element().attribute("b"), Some(text));
        assert_eq!(document.root_element().text(), Some(text));
        assert!(is_writable(text) && !is_writable("\u{1b}[2J") && !is_writable("\u{ffff}"));
    }
}
