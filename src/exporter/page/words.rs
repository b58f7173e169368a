//! Owns: single pieces of text and HTML: what comes from outside made harmless, ages, times, commands, symbols.
//! Must not: know what they are said of.

use chrono::{DateTime, TimeDelta, Utc};

use super::Tone;
use crate::model::command::typed;
use crate::model::printable;

/// Text from outside as the text of an element or the value of an attribute in double quotes.
pub(super) fn text(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in printable(text).chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c => safe.push(c),
        }
    }
    safe
}

/// A name from outside: its direction of writing is its own.
pub(super) fn name(name: &str) -> String {
    format!("<bdi class=\"name\">{}</bdi>", text(name))
}

/// A command to type.
pub(super) fn command(line: &str) -> String {
    format!("<code>{}</code>", text(&typed(line)))
}

/// A message without its middle, if it is long: it begins with what failed and ends with the cause.
pub(super) fn shortened(message: &str) -> String {
    const SIDE: usize = 200;
    let all: Vec<char> = message.chars().collect();
    match all.len() > 2 * SIDE + 1 {
        true => all[..SIDE].iter().chain(&['…']).chain(&all[all.len() - SIDE..]).collect(),
        false => message.to_owned(),
    }
}

/// One of something, or many.
pub(super) fn count(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// A time in its largest unit: `5 min`, `26 h`, `9 d`.
pub(super) fn span(time: TimeDelta) -> String {
    let seconds = time.num_seconds().max(0);
    match seconds {
        0..90 => format!("{seconds} s"),
        90..5_400 => format!("{} min", (seconds + 30) / 60),
        5_400..172_800 => format!("{} h", (seconds + 1_800) / 3_600),
        _ => format!("{} d", (seconds + 43_200) / 86_400),
    }
}

/// How long ago a time is, in words.
pub(super) fn ago(now: DateTime<Utc>, time: DateTime<Utc>) -> String {
    match now - time {
        age if age < TimeDelta::seconds(60) => "just now".to_owned(),
        age => format!("{} ago", span(age)),
    }
}

/// The same as HTML, with the time itself.
pub(super) fn time(now: DateTime<Utc>, time: DateTime<Utc>) -> String {
    let iso = time.format("%Y-%m-%dT%H:%M:%SZ");
    format!("<time datetime=\"{iso}\" title=\"{}\">{}</time>", time.format("%a %-d %b %Y %H:%M UTC"), ago(now, time))
}

/// The same of a time that may never have been.
pub(super) fn time_or_never(now: DateTime<Utc>, at: Option<DateTime<Utc>>) -> String {
    at.map_or_else(|| "never".to_owned(), |at| time(now, at))
}

/// The sign of a tone, drawn, so that it needs no font. The words beside it say the same.
pub(super) fn symbol(tone: Tone) -> String {
    let sign = match tone {
        Tone::Idle => "M7 12h10",
        Tone::Good => "M6.5 12.5l3.7 3.7 7.3-8",
        Tone::Note => "M12 6.5v7M12 17v.1",
        Tone::Bad => "M8 8l8 8M16 8l-8 8",
    };
    format!(
        "<svg class=\"symbol {}\" viewBox=\"0 0 24 24\" aria-hidden=\"true\"><circle cx=\"12\" cy=\"12\" r=\"11\"/>\
         <path d=\"{sign}\"/></svg>",
        tone.class()
    )
}

/// A word with its sign.
pub(super) fn badge(tone: Tone, word: &str) -> String {
    format!("<span class=\"badge {}\">{}{}</span>", tone.class(), symbol(tone), text(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_outside_is_markup() {
        assert_eq!(
            text("<a href=\"x\" b='c'>&\0\n\u{202e}ü"),
            "&lt;a href=&quot;x&quot; b=&#39;c&#39;&gt;&amp;\u{fffd} \u{fffd}ü"
        );
    }

    #[test]
    fn a_long_message_loses_its_middle() {
        assert_eq!(shortened("disk vda: no space"), "disk vda: no space");
        let short = shortened(&format!("disk ü: {}: no space", "x".repeat(500)));
        assert!(short.starts_with("disk ü: x") && short.contains("x…x") && short.ends_with("x: no space"), "{short}");
        assert_eq!(short.chars().count(), 401);
    }

    #[test]
    fn ages_have_one_unit() {
        let cases = [
            (-5, "0 s"),
            (59, "59 s"),
            (90, "2 min"),
            (3_600, "60 min"),
            (86_400, "24 h"),
            (172_800, "2 d"),
            (900_000, "10 d"),
        ];
        for (seconds, said) in cases {
            assert_eq!(span(TimeDelta::seconds(seconds)), said);
        }
    }
}
