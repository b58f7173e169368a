//! Formats and parses byte counts and durations for people. Must not print.

use std::time::Duration;

/// Seconds of each unit that can be typed.
const UNITS: [(&str, u64); 4] = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)];

/// Bytes in decimal units with three significant figures, as disks are sold: `2.37 GB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    match (unit, value) {
        (0, _) => format!("{count} B"),
        (_, v) if v < 9.995 => format!("{v:.2} {}", UNITS[unit]),
        (_, v) if v < 99.95 => format!("{v:.1} {}", UNITS[unit]),
        (_, v) => format!("{v:.0} {}", UNITS[unit]),
    }
}

/// A duration in its two largest units: `1h 04m`, `3m 07s`, `8.3 s`, `41 ms`.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        3600.. => format!("{}h {:02}m", seconds / 3600, seconds / 60 % 60),
        60.. => format!("{}m {:02}s", seconds / 60, seconds % 60),
        1.. => format!("{:.1} s", time.as_secs_f64()),
        _ => format!("{} ms", time.as_millis()),
    }
}

/// Reads a whole number with its unit: `30s`, `15m`, `2h`, `7d`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let (number, factor) =
        UNITS.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?.trim_end(), factor)))?;
    let is_number = number.bytes().all(|byte| byte.is_ascii_digit());
    let seconds = is_number.then(|| number.parse::<u64>().ok())??.checked_mul(*factor)?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_three_significant_figures() {
        let cases = [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (2_370_000_000, "2.37 GB"), (999_600, "1.00 MB")];
        for (count, text) in cases {
            assert_eq!(bytes(count), text);
        }
        assert_eq!(bytes(u64::MAX), "18447 PB");
    }

    #[test]
    fn printed_durations_have_two_units() {
        let cases = [(41, "41 ms"), (8_300, "8.3 s"), (187_000, "3m 07s"), (3_840_000, "1h 04m")];
        for (ms, text) in cases {
            assert_eq!(duration(Duration::from_millis(ms)), text);
        }
    }

    #[test]
    fn parsed_durations_need_a_unit() {
        let cases = [("30s", 30), ("15 m", 900), ("2h", 7200), ("7d", 604_800), ("0s", 0)];
        for (text, seconds) in cases {
            assert_eq!(parse_duration(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        for text in
            ["", "s", "30", "+3s", "-1h", "1.5h", "7 days", "1é", "99999999999999999999d", "999999999999999999d"]
        {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }
}
