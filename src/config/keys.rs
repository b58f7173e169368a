//! Owns: the table of all keys, and at which levels each may stand. Must not: read values.

/// A level of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    /// The reserved top-level key `defaults`.
    Defaults,
    /// A host section.
    Host,
    /// An entry of `domains`.
    Domain,
}

impl Level {
    const ALL: [Level; 3] = [Level::Defaults, Level::Host, Level::Domain];

    fn name(self) -> &'static str {
        match self {
            Level::Defaults => "`defaults`",
            Level::Host => "a host section",
            Level::Domain => "a domain",
        }
    }
}

/// Keys of a host section alone.
pub(super) const HOST_ONLY: &[&str] = &["backupdir", "domains"];
/// Keys of a host, which may also stand in `defaults`.
pub(super) const HOST: &[&str] =
    &["require_mount", "min_free", "stall_timeout", "state_dir", "libvirt_uri", "parallel", "metrics", "mail"];
/// Keys of a domain, which may stand at every level.
pub(super) const DOMAIN: &[&str] = &[
    "job",
    "day_of_week",
    "catch_up",
    "priority",
    "rotate",
    "keep",
    "compression",
    "quiesce",
    "freeze_timeout",
    "method",
    "exclude_disks",
    "overlay_dir",
    "scratch_dir",
    "allow_plaintext",
    "hooks",
];
/// Keys of a domain alone.
pub(super) const DOMAIN_ONLY: &[&str] = &["exclude"];
/// The keys inside `keep`.
pub(super) const KEEP: &[&str] = &["last", "daily", "weekly", "monthly", "yearly"];
/// The keys inside `compression`.
pub(super) const COMPRESSION: &[&str] = &["method", "level"];
/// The keys inside `metrics`.
pub(super) const METRICS: &[&str] = &["textfile", "listen", "hosts"];
/// The keys inside `mail`.
pub(super) const MAIL: &[&str] = &["to", "from", "when", "sendmail", "smtp", "templates"];
/// The keys inside `mail.smtp`.
pub(super) const SMTP: &[&str] = &[
    "host",
    "port",
    "security",
    "username",
    "password_file",
    "password_env",
    "password_credential",
    "ca_file",
    "timeout",
    "ehlo",
];
/// The keys of an entry of `hooks`.
pub(super) const HOOK: &[&str] = &[
    "name",
    "type",
    "phase",
    "command",
    "where",
    "domains",
    "order",
    "env",
    "timeout",
    "ready_timeout",
    "hold_timeout",
    "release_timeout",
    "on_error",
];

/// The keys that may stand at a level.
pub(super) fn at(level: Level) -> Vec<&'static str> {
    let groups: &[&[&str]] = match level {
        Level::Defaults => &[HOST, DOMAIN],
        Level::Host => &[HOST_ONLY, HOST, DOMAIN],
        Level::Domain => &[DOMAIN, DOMAIN_ONLY],
    };
    groups.concat()
}

/// Why a key may not stand at a level, and whether the list of valid keys helps.
pub(super) fn refusal(key: &str, level: Level) -> (String, bool) {
    let right: Vec<_> = Level::ALL.into_iter().filter(|level| at(*level).contains(&key)).map(Level::name).collect();
    match right.as_slice() {
        [] => ("unknown key".to_owned(), true),
        levels => (format!("belongs in {1}, not in {0}", level.name(), levels.join(" or ")), false),
    }
}
