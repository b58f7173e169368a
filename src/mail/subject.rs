//! The subject of an email, in a fixed grammar for readers and filters. It must not know a report.
//!
//! `[kvmbackup] STATUS N/M - HOST - NAME, NAME, +REST`: `N/M` is omitted if the run had no domain, and the names if everything is ok.

use super::Gist;

/// Maximum length of a subject: a header line should have at most 78 characters (RFC 5322, 2.1.1).
const LIMIT: usize = 78;
/// Maximum length of the host name.
const HOST: usize = 24;

/// The subject of a run's mail: at most 78 printable ASCII characters.
pub fn subject(host: &str, gist: &Gist) -> String {
    let mut subject = format!("[kvmbackup] {}", gist.status.name());
    if gist.all > 0 {
        subject += &format!(" {}/{}", gist.count, gist.all);
    }
    subject += &format!(" - {}", cut(&ascii(host), HOST));
    for (at, name) in gist.names.iter().enumerate() {
        let rest = gist.names.len() - at;
        let before = if at == 0 { " - " } else { ", " };
        let after = if rest > 1 { format!(", +{}", rest - 1) } else { String::new() };
        let room = LIMIT.saturating_sub(subject.len() + before.len() + after.len());
        let name = ascii(name);
        if at == 0 || name.len() <= room {
            subject += &format!("{before}{}", cut(&name, room));
        } else {
            subject += &format!(", +{rest}");
            break;
        }
    }
    cut(&subject, LIMIT)
}

/// The subject of a test email.
pub fn test_subject(host: &str) -> String {
    format!("[kvmbackup] TEST - {}", cut(&ascii(host), HOST))
}

fn cut(text: &str, room: usize) -> String {
    if text.len() <= room { text.to_owned() } else { format!("{}~", &text[..room.saturating_sub(1)]) }
}

/// Replaces everything except printable ASCII by question marks, because domain names are untrusted text.
fn ascii(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Status;

    fn of(status: Status, count: usize, all: usize, names: &[&str]) -> String {
        subject("cloud1", &Gist { status, count, all, names: names.iter().map(|name| (*name).to_owned()).collect() })
    }

    #[test]
    fn subject_has_a_fixed_form() {
        assert_eq!(of(Status::Failed, 1, 12, &["db1"]), "[kvmbackup] FAILED 1/12 - cloud1 - db1");
        assert_eq!(of(Status::Ok, 12, 12, &[]), "[kvmbackup] OK 12/12 - cloud1");
        assert_eq!(of(Status::Warning, 2, 3, &["a", "b"]), "[kvmbackup] WARNING 2/3 - cloud1 - a, b");
        assert_eq!(of(Status::Failed, 0, 0, &["configuration"]), "[kvmbackup] FAILED - cloud1 - configuration");
    }

    #[test]
    fn subject_is_one_short_line_of_ascii() {
        let names: Vec<String> = (0..200).map(|n| format!("guest-{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let many = of(Status::Aborted, 200, 200, &names);
        assert!(many.len() <= 78 && many.contains("guest-0, ") && many.ends_with("+197"), "{many}");
        let long = of(Status::Failed, 1, 1, &["x".repeat(300).as_str()]);
        assert_eq!(long.len(), 78);
        let hostile = of(Status::Failed, 1, 2, &["a\r\nBcc: x@y", "bü\u{202e}\0"]);
        assert_eq!(hostile, "[kvmbackup] FAILED 1/2 - cloud1 - a??Bcc: x@y, b????".replace("b????", "b???"));
        for rest in 1..90 {
            let text = of(Status::Warning, 9, 99, &["n".repeat(rest).as_str(), "m".repeat(rest).as_str(), "o"]);
            assert!(text.len() <= 78, "{text}");
            for count in [2, 3, 200] {
                let name = "n".repeat(rest);
                let text = of(Status::Failed, count, count, &vec![name.as_str(); count]);
                assert!(!text.trim_end_matches('~').ends_with([',', ' ']) && text.len() <= 78, "{text}");
            }
        }
    }
}
