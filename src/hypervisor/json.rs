//! Writes JSON for libvirt. Must not know any command.

use std::fmt::Write;

use serde_json::Value;

/// The value in ASCII: libvirt 11 refuses commands for the guest agent and for QEMU that contain other characters
/// ("invalid utf-8 string"), although they are valid UTF-8.
pub fn in_ascii(value: &Value) -> String {
    let mut ascii = String::new();
    // In JSON, other characters can only be inside of strings.
    for c in value.to_string().chars() {
        match c.is_ascii() {
            true => ascii.push(c),
            false => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| {
                let _ = write!(ascii, "\\u{unit:04x}");
            }),
        }
    }
    ascii
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_character_is_escaped_and_read_back() {
        let value = json!({ "ä": ["\u{1f600} \"\n", "日本", "plain"] });
        let ascii = in_ascii(&value);
        assert!(ascii.is_ascii(), "{ascii}");
        assert_eq!(serde_json::from_str::<Value>(&ascii).unwrap(), value);
    }
}
