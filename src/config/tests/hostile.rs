//! Tests hostile texts, and compares the tree with that of another YAML reader.

use std::path::Path;

use proptest::prelude::*;

use super::super::*;
use super::{EXAMPLE, complaints};

#[test]
fn alias_bombs_are_refused() {
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

/// Whether a tree equals the other reader's for the same text. That reader also knows types other than null and whole
/// numbers.
fn is_same(node: &node::Node, other: &serde_yaml::Value) -> bool {
    match (&node.kind, other) {
        (node::Kind::Scalar(text, _), serde_yaml::Value::String(other)) => {
            text == other && !node.is_null() && node.number().is_none()
        }
        (node::Kind::Scalar(text, is_plain), other) => {
            let number = other.as_u64().and_then(|number| u32::try_from(number).ok());
            let is_truth = |truth| *is_plain && text.to_lowercase().parse() == Ok(truth);
            node.is_null() == other.is_null() && node.number() == number && other.as_bool().is_none_or(is_truth)
        }
        (node::Kind::List(items), serde_yaml::Value::Sequence(others)) => {
            items.len() == others.len() && items.iter().zip(others).all(|(item, other)| is_same(item, other))
        }
        (node::Kind::Map(entries), serde_yaml::Value::Mapping(others)) => {
            let same = |entry: &node::Entry, (key, other): (&serde_yaml::Value, &serde_yaml::Value)| {
                key.as_str() == Some(&entry.key) && is_same(&entry.value, other)
            };
            entries.len() == others.len() && entries.iter().zip(others).all(|(entry, other)| same(entry, other))
        }
        _ => false,
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

/// Characters with a meaning in YAML, and characters of every width.
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

#[test]
fn scalars_have_the_types_of_yaml_1_2() {
    let all = "['', ~, null, Null, NULL, nULL, '~', 'null', 0, 7, +7, -7, 007, 0o17, 0x1F, 0b11, 0X1f, 12_000, 1:30, 2026-11-30, \
               .5, 1e3, 4.0, 4294967295, 4294967296, '7', yes, no, on, Off, true, True, .inf, .nan, 0o8, +, 0x, '']";
    let (node, other) = (node::parse(all).unwrap(), serde_yaml::from_str(all).unwrap());
    assert!(is_same(&node, &other));
    let node::Kind::List(items) = node.kind else { panic!() };
    assert_eq!(items.iter().filter(|item| item.is_null()).count(), 4);
    let numbers: Vec<_> = items.iter().filter_map(node::Node::number).collect();
    assert_eq!(numbers, [0, 7, 7, 15, 31, 3, u32::MAX]);
}

proptest! {
    #[test]
    fn tree_equals_that_of_another_yaml_reader(value in values()) {
        let text = serde_yaml::to_string(&value).unwrap();
        prop_assert!(is_same(&node::parse(&text).unwrap(), &serde_yaml::from_str(&text).unwrap()), "{text}");
    }

    #[test]
    fn scalar_equals_that_of_another_yaml_reader(text in "[+]?(0[xobX]?|)[0-9a-f_+][0-9a-f_+-]{0,9}|-[1-9][0-9]{0,9}|~|[nN](ull|ULL)|[tT]rue|yes|[0-9][0-9:.e]{0,6}[0-9]") {
        let text = format!("[{text}]");
        let (Ok(node), Ok(other)) = (node::parse(&text), serde_yaml::from_str(&text)) else { return Ok(()) };
        prop_assert!(is_same(&node, &other), "{text}");
    }

    #[test]
    fn no_text_causes_a_panic(tokens in prop::collection::vec(prop::sample::select(TOKENS), 0..40)) {
        let _ = parse(&tokens.concat(), Path::new("c.yml"), "h");
    }

    #[test]
    fn no_damage_to_a_valid_file_causes_a_panic(at in 0..EXAMPLE.len(), length in 0..40_usize, with in "[:\\-\\[{*&!\"'\n \t]{0,3}") {
        let (Some(head), Some(tail)) = (EXAMPLE.get(..at), EXAMPLE.get(at + length..)) else { return Ok(()) };
        let _ = parse(&format!("{head}{with}{tail}"), Path::new("c.yml"), "cloud1");
    }
}
