//! Formats commands in hints: quoted for a shell, with the options that select the configuration in use. Must not run
//! one.

use std::path::Path;
use std::sync::OnceLock;

/// The commands that read the configuration.
pub const COMMANDS: [&str; 19] = [
    "backup",
    "list",
    "restore",
    "export",
    "import",
    "verify",
    "protect",
    "unprotect",
    "prune",
    "checkpoints",
    "recover",
    "check",
    "hooks",
    "metrics",
    "report",
    "repository",
    "maintain",
    "copy",
    "exporter",
];

const PROGRAM: &str = "kvmbackup ";

/// The options that select the configuration in use, each followed by a space; empty for the default one.
static OPTIONS: OnceLock<String> = OnceLock::new();

/// Makes the commands of all texts select this configuration and host section. `None` means the default.
pub fn name_configuration(config: Option<&Path>, host: Option<&str>) {
    let config = config.map(|path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned()));
    let config = config.map(|path| format!("-c {} ", quoted(&path.to_string_lossy())));
    let host = host.map(|host| format!("--host {} ", quoted(host)));
    let _ = OPTIONS.set([config, host].into_iter().flatten().collect());
}

/// A text whose commands select the configuration in use, so that they can be pasted.
pub fn typed(text: &str) -> String {
    with(OPTIONS.get().map_or("", String::as_str), text)
}

fn with(options: &str, text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(PROGRAM) {
        let (before, after) = (&rest[..at], &rest[at + PROGRAM.len()..]);
        out.push_str(before);
        let is_whole = !out.ends_with(|c: char| c.is_alphanumeric() || "-_.".contains(c));
        out.push_str(PROGRAM);
        if is_whole && names_command(after) {
            out.push_str(options);
        }
        rest = after;
    }
    out + rest
}

fn names_command(text: &str) -> bool {
    let word = text.split(|c: char| !c.is_ascii_lowercase()).next();
    word.is_some_and(|word| COMMANDS.contains(&word))
}

/// The parts of a text that must stay on one line: words, quoted words with their spaces, and kvmbackup commands up to
/// the next punctuation. A shell would run the first line of a broken command.
pub fn unbroken(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text.trim_matches(' ');
    while !rest.is_empty() {
        let mut end = word(rest);
        let command = rest.trim_start_matches(['`', '(']).strip_prefix(PROGRAM);
        if command.is_some_and(|command| command.starts_with('-') || names_command(command)) {
            while end < rest.len() && !rest[..end].ends_with(['`', ';', ',', ')']) {
                end += 1 + word(&rest[end + 1..]);
            }
        }
        parts.push(&rest[..end]);
        rest = rest[end..].trim_start_matches(' ');
    }
    parts
}

/// The length of the first word of a text; a quoted word may contain spaces.
fn word(text: &str) -> usize {
    let plain = text.find(' ').unwrap_or(text.len());
    let Some(inside) = text.strip_prefix('\'') else { return plain };
    // A quote that `quoted` has escaped does not end the word.
    let mut at = 0;
    while let Some(quote) = inside[at..].find('\'') {
        at += quote + 1;
        match inside[at..].strip_prefix(r"\''") {
            Some(_) => at += r"\''".len(),
            None => return 1 + at + inside[at..].find(' ').unwrap_or(inside.len() - at),
        }
    }
    plain
}

/// Quotes a word for a POSIX shell.
pub fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "-_./:@%+=,".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configuration_option_is_inserted_only_into_commands() {
        let typed = |text| with("-c '/x y/c.yml' ", text);
        assert_eq!(
            typed("see: kvmbackup list web; then (kvmbackup recover)"),
            "see: kvmbackup -c '/x y/c.yml' list web; then (kvmbackup -c '/x y/c.yml' recover)"
        );
        for text in [
            "the user of kvmbackup must be root",
            "kvmbackup 0.1.0",
            "journalctl -t kvmbackup --since now",
            "/srv/old-kvmbackup check",
            "kvmbackup listing",
            "kvmbackup",
            "kvmbackup ",
        ] {
            assert_eq!(typed(text), text);
        }
        let once = typed("kvmbackup check");
        assert_eq!(typed(&once), once);
    }

    #[test]
    fn lines_are_not_broken_within_commands_or_quoted_words() {
        assert_eq!(unbroken("  the guest's  disk "), ["the", "guest's", "disk"]);
        assert_eq!(unbroken("see '/x y/z w': it is"), ["see", "'/x y/z w':", "it", "is"]);
        assert_eq!(unbroken(r"rm 'a'\''b c' d"), ["rm", r"'a'\''b c'", "d"]);
        assert_eq!(unbroken("'tis so"), ["'tis", "so"]);
        assert_eq!(unbroken("''"), ["''"]);
        let command = "kvmbackup -c '/x y' backup --force 'a; b';";
        assert_eq!(unbroken(&format!("then: {command} or wait")), ["then:", command, "or", "wait"]);
        assert_eq!(unbroken("(`kvmbackup list` shows all)"), ["(`kvmbackup list`", "shows", "all)"]);
        assert_eq!(unbroken("kvmbackup must write"), ["kvmbackup", "must", "write"]);
        assert_eq!(unbroken("kvmbackup report --format json"), ["kvmbackup report --format json"]);
    }

    #[test]
    fn a_shell_takes_a_quoted_word_as_one_word() {
        for word in ["web-1", "a/b=1.qcow2", "a b", "it's", "-rf", "$(reboot)", "*", "", "büro", "a'; rm x"] {
            let script = format!("printf %s {}", quoted(word));
            let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
        }
        assert_eq!(quoted("web-1"), "web-1");
    }
}
