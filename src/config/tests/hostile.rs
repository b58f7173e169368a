//! Texts that nobody would write on purpose, and the tree against another reader of YAML.

use std::path::Path;

use proptest::prelude::*;

use super::super::*;
use super::{EXAMPLE, complaints};

#[test]
fn bombs_are_refused() {
    let deep = format!("h: {}", "[".repeat(100_000));
    let blocks: String = (0..5000).map(|n| format!("{}a:\n", " ".repeat(n))).collect();
    let aliases: String = (1..30).map(|n| format!("a{n}: &a{n} [*a{0}, *a{0}, *a{0}, *a{0}]\n", n - 1)).collect();
    let chain: String = (1..3000).map(|n| format!("a{n}: &a{n} [*a{0}]\n", n - 1)).collect();
    let long = format!("h: [{}]", "1,".repeat(400_000));
    for text in [deep, blocks, format!("a0: &a0 [1, 2]\n{aliases}"), format!("a0: &a0 [1]\n{chain}"), long] {
        let complaint = complaints(&text).remove(0);
        let limits = ["nested too deeply", "too many values", "recursion limit exceeded"];
        assert!(limits.iter().any(|limit| complaint.ends_with(limit)), "{complaint}");
    }
}

/// The tree as plain values, to be compared with what the other YAML reader makes of the same text.
fn plain(node: &node::Node) -> serde_yaml::Value {
    match &node.kind {
        node::Kind::Scalar(_, value) => value.clone(),
        node::Kind::List(items) => items.iter().map(plain).collect::<Vec<_>>().into(),
        node::Kind::Map(entries) => {
            let entry = |entry: &node::Entry| (entry.key.clone().into(), plain(&entry.value));
            serde_yaml::Value::Mapping(entries.iter().map(entry).collect())
        }
    }
}

fn values() -> impl Strategy<Value = serde_yaml::Value> {
    let scalar = prop_oneof![
        Just(serde_yaml::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        "[ -~äλ\n]{0,12}".prop_map(Into::into),
        "(yes|on|0x1f|1e3|007|~|null|12_000|.5|10%|20GB)".prop_map(Into::into),
    ];
    scalar.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            prop::collection::btree_map("[a-z][a-z0-9 .-]{0,6}", inner, 0..4).prop_map(|map| {
                let entries = map.into_iter().map(|(key, value)| (key.into(), value));
                serde_yaml::Value::Mapping(entries.collect())
            }),
        ]
    })
}

/// What YAML has a meaning for, and characters of every width.
const TOKENS: &[&str] = &[
    "a",
    "h",
    "domains",
    "keep",
    "rotate",
    "day_of_week",
    "4",
    "ä",
    "\u{2028}",
    "\u{1f600}",
    "\u{85}",
    "\u{feff}",
    "\0",
    " ",
    "  ",
    "\t",
    "\n",
    "\n  ",
    "\n    ",
    "\r\n",
    "\r",
    ": ",
    ":",
    "- ",
    "-",
    "? ",
    "?",
    ", ",
    ",",
    "[",
    "]",
    "{",
    "}",
    "#",
    " #",
    "&a ",
    "*a",
    "*a ",
    "<<: ",
    "!",
    "!!str ",
    "!<x> ",
    "%YAML 1.2\n",
    "%TAG ! x\n",
    "---",
    "\n---\n",
    "\n...\n",
    "|",
    "|+2\n",
    ">-\n",
    "'",
    "\"",
    "\\",
    "\\x4",
    "\\u00e4",
    "\\U00110000",
    "@",
    "`",
    "~",
    "null",
    "true",
    "1e3",
    "0x",
    ".inf",
    "-.",
    "10%",
    "99999999999999999999",
];

proptest! {
    #[test]
    fn the_tree_is_what_the_other_reader_sees(value in values()) {
        let text = serde_yaml::to_string(&value).unwrap();
        prop_assert_eq!(plain(&node::parse(&text).unwrap()), serde_yaml::from_str::<serde_yaml::Value>(&text).unwrap());
    }

    #[test]
    fn nothing_makes_it_panic(tokens in prop::collection::vec(prop::sample::select(TOKENS), 0..40)) {
        let _ = parse(&tokens.concat(), Path::new("c.yml"), "h");
    }

    #[test]
    fn no_damage_to_a_good_file_makes_it_panic(at in 0..EXAMPLE.len(), length in 0..40_usize, with in "[:\\-\\[{*&!\"'\n \t]{0,3}") {
        let (Some(head), Some(tail)) = (EXAMPLE.get(..at), EXAMPLE.get(at + length..)) else { return Ok(()) };
        let _ = parse(&format!("{head}{with}{tail}"), Path::new("c.yml"), "cloud1");
    }
}
