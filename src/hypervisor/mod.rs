//! Owns: (filled by its author).

pub mod domain_xml;
