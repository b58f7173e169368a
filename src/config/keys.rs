//! The table of all keys: name, levels where it is allowed, kind of value, and the setting that it sets. Must not know
//! how a mapping is read.
//!
//! Inner levels are read on top of outer ones, so a key replaces the whole setting of outer levels.

use super::check::Layer;
use super::key::{Key, Level, later, put};
use super::value::{self, Compression};
use super::{
    CopySettings, Hook, HookPlace, Incremental, Mail, MailWhen, MethodChoice, Metrics, OnError, Quiesce,
    RepositorySettings, Secret, Security, Smtp, StoreChoice, Transport, copies, hooks, mail, repository,
};
use crate::model::Codec;
use crate::retention::Policy;

const HOST_ONLY: &[Level] = &[Level::Host];
const HOST: &[Level] = &[Level::Defaults, Level::Host];
const DOMAIN: &[Level] = Level::ALL;
const DOMAIN_ONLY: &[Level] = &[Level::Domain];

const QUIESCE: &[(&str, Quiesce)] =
    &[("require", Quiesce::Require), ("prefer", Quiesce::Prefer), ("never", Quiesce::Never)];
const STORE: &[(&str, StoreChoice)] =
    &[("archive", StoreChoice::Archive), ("repository", StoreChoice::Repository), ("both", StoreChoice::Both)];
const METHOD: &[(&str, MethodChoice)] =
    &[("auto", MethodChoice::Auto), ("snapshot", MethodChoice::Snapshot), ("pull", MethodChoice::Pull)];
const INCREMENTAL: &[(&str, Incremental)] =
    &[("auto", Incremental::Auto), ("always", Incremental::Always), ("never", Incremental::Never)];
pub(super) const CODECS: &[(&str, Codec)] =
    &[("zstd", Codec::Zstd(3)), ("gzip", Codec::Gzip(6)), ("none", Codec::None)];
const WHEN: &[(&str, MailWhen)] = &[
    ("failure", MailWhen::Failure),
    ("change", MailWhen::Change),
    ("always", MailWhen::Always),
    ("digest", MailWhen::Digest),
];
const SECURITY: &[(&str, Security)] =
    &[("starttls", Security::StartTls), ("tls", Security::Tls), ("none", Security::None)];
const PLACE: &[(&str, HookPlace)] = &[("host", HookPlace::Host), ("guest", HookPlace::Guest)];
const ON_ERROR: &[(&str, OnError)] = &[
    ("fail_domain", OnError::FailDomain),
    ("fail_run", OnError::FailRun),
    ("warn", OnError::Warn),
    ("ignore", OnError::Ignore),
    ("degrade", OnError::Degrade),
];

/// The keys of the levels.
pub(super) const KEYS: &[Key<Layer>] = &[
    Key::at(HOST_ONLY, "backupdir", |to, at, p| put(&mut to.host.backupdir, value::absolute(at, p).map(Some))),
    Key::at(HOST, "repository", |to, at, p| put(&mut to.host.repository, repository::read(at, p).map(Some))),
    Key::at(HOST_ONLY, "domains", later),
    Key::at(HOST, "require_mount", |to, at, p| put(&mut to.host.require_mount, value::boolean(at, p))),
    Key::at(HOST, "min_free", |to, at, p| put(&mut to.host.min_free, value::min_free(at, p))),
    Key::at(HOST, "stall_timeout", |to, at, p| put(&mut to.host.stall_timeout, value::duration(at, p))),
    Key::at(HOST, "state_dir", |to, at, p| put(&mut to.host.state_dir, value::absolute(at, p))),
    Key::at(HOST, "libvirt_uri", |to, at, p| put(&mut to.host.libvirt_uri, value::libvirt_uri(at, p))),
    Key::at(HOST, "parallel", |to, at, p| put(&mut to.host.parallel, value::number(at, 1..=64, p).map(|n| n as usize))),
    Key::at(HOST, "metrics", |to, at, p| to.host.metrics = value::metrics(at, p)),
    Key::at(HOST, "mail", |to, at, p| put(&mut to.host.mail, mail::read(at, p).map(Some))),
    Key::at(DOMAIN, "job", |to, at, p| put(&mut to.domain.job, value::job(at, p))),
    Key::at(DOMAIN, "day_of_week", |to, at, p| to.days = Some(value::days(at, p))),
    Key::at(DOMAIN, "catch_up", |to, at, p| put(&mut to.domain.catch_up, value::boolean(at, p))),
    Key::at(DOMAIN, "priority", |to, at, p| put(&mut to.domain.priority, value::number(at, 0..=100, p))),
    Key::at(DOMAIN, "store", |to, at, p| put(&mut to.store, value::word(at, STORE, p).map(Some))),
    Key::at(DOMAIN, "rotate", |to, at, p| put(&mut to.domain.retention, value::rotate(at, p).map(Some))),
    Key::at(DOMAIN, "keep", |to, at, p| to.domain.retention = Some(value::keep(at, p))),
    Key::at(DOMAIN, "compression", |to, at, p| put(&mut to.domain.compression, value::compression(at, p))),
    Key::at(DOMAIN, "quiesce", |to, at, p| put(&mut to.domain.quiesce, value::word(at, QUIESCE, p))),
    Key::at(DOMAIN, "freeze_timeout", |to, at, p| put(&mut to.domain.freeze_timeout, value::duration(at, p))),
    Key::at(DOMAIN, "method", |to, at, p| put(&mut to.domain.method, value::word(at, METHOD, p))),
    Key::at(DOMAIN, "incremental", |to, at, p| put(&mut to.domain.incremental, value::word(at, INCREMENTAL, p))),
    Key::at(DOMAIN, "exclude_disks", |to, at, p| to.domain.exclude_disks = value::words(at, p)),
    Key::at(DOMAIN, "overlay_dir", |to, at, p| put(&mut to.domain.overlay_dir, value::absolute(at, p).map(Some))),
    Key::at(DOMAIN, "scratch_dir", |to, at, p| put(&mut to.domain.scratch_dir, value::absolute(at, p).map(Some))),
    Key::at(DOMAIN, "allow_plaintext", |to, at, p| put(&mut to.domain.allow_plaintext, value::boolean(at, p))),
    // Hooks of all levels are combined.
    Key::at(DOMAIN, "hooks", |to, at, p| to.domain.hooks.extend(hooks::read(at, to.level, p))),
    Key::at(DOMAIN_ONLY, "exclude", later),
];

pub(super) const REPOSITORY: &[Key<RepositorySettings>] = &[
    Key::new("url", repository::url),
    Key::new("access_key_id", |to, at, p| to.access_key_id = repository::word(at, p)),
    Key::new("secret_access_key_file", |to, at, p| to.secret_access_key = value::absolute(at, p).map(Secret::File)),
    Key::new("secret_access_key_env", |to, at, p| to.secret_access_key = mail::name(at, p).map(Secret::Env)),
    Key::new("secret_access_key_credential", |to, at, p| {
        to.secret_access_key = mail::name(at, p).map(Secret::Credential);
    }),
    Key::new("region", |to, at, p| put(&mut to.region, repository::word(at, p))),
    Key::new("ca_file", |to, at, p| to.ca_file = value::absolute(at, p)),
    Key::new("password_file", |to, at, p| put(&mut to.password, value::absolute(at, p).map(Secret::File))),
    Key::new("password_env", |to, at, p| put(&mut to.password, mail::name(at, p).map(Secret::Env))),
    Key::new("password_credential", |to, at, p| put(&mut to.password, mail::name(at, p).map(Secret::Credential))),
    Key::new("cache_dir", |to, at, p| put(&mut to.cache_dir, value::absolute(at, p))),
    Key::new("blob_size", |to, at, p| to.blob_size = repository::blob_size(at, p)),
    Key::new("maintain_timeout", |to, at, p| put(&mut to.maintain_timeout, value::long_duration(at, p))),
    Key::new("check_data", |to, at, p| put(&mut to.check_data, value::percent(at, p))),
    Key::new("max_unused", |to, at, p| put(&mut to.max_unused, value::percent(at, p))),
    Key::new("copies", |to, at, p| to.copies = copies::read(at, p)),
];

/// The keys of an entry of `copies`.
pub(super) const COPY: &[Key<CopySettings>] = &[
    Key::new("name", |to, at, p| put(&mut to.name, hooks::name(at, p))),
    Key::new("to", |to, at, p| put(&mut to.to, copies::address(at, p))),
    Key::new("password_file", |to, at, p| put(&mut to.password, value::absolute(at, p).map(Secret::File))),
    Key::new("password_env", |to, at, p| put(&mut to.password, mail::name(at, p).map(Secret::Env))),
    Key::new("password_credential", |to, at, p| put(&mut to.password, mail::name(at, p).map(Secret::Credential))),
    Key::new("every", |to, at, p| put(&mut to.every, value::interval(at, p))),
    Key::new("keep", |to, at, p| to.keep = value::number(at, 1..=u32::MAX, p)),
    Key::new("timeout", |to, at, p| put(&mut to.timeout, value::long_duration(at, p))),
];

pub(super) const KEEP: &[Key<Policy>] = &[
    Key::new("last", |to, at, p| put(&mut to.last, value::number(at, 0..=u32::MAX, p))),
    Key::new("daily", |to, at, p| put(&mut to.daily, value::number(at, 0..=u32::MAX, p))),
    Key::new("weekly", |to, at, p| put(&mut to.weekly, value::number(at, 0..=u32::MAX, p))),
    Key::new("monthly", |to, at, p| put(&mut to.monthly, value::number(at, 0..=u32::MAX, p))),
    Key::new("yearly", |to, at, p| put(&mut to.yearly, value::number(at, 0..=u32::MAX, p))),
];

pub(super) const COMPRESSION: &[Key<Compression>] =
    &[Key::new("method", |to, at, p| *to = value::word(at, CODECS, p)), Key::new("level", later)];

pub(super) const METRICS: &[Key<Metrics>] = &[
    Key::new("textfile", |to, at, p| to.textfile = value::absolute(at, p)),
    Key::new("listen", |to, at, p| to.listen = value::listen(at, p)),
    Key::new("hosts", |to, at, p| to.hosts = value::own_hosts(at, p)),
];

pub(super) const MAIL: &[Key<Mail>] = &[
    Key::new("to", |to, at, p| to.to = mail::addresses(at, p)),
    Key::new("from", |to, at, p| to.from = mail::address(at, p)),
    Key::new("when", |to, at, p| put(&mut to.when, value::word(at, WHEN, p))),
    Key::new("sendmail", |to, at, p| put(&mut to.transport, value::absolute(at, p).map(Transport::Sendmail))),
    Key::new("smtp", |to, at, p| to.transport = Transport::Smtp(mail::server(at, p))),
    Key::new("templates", |to, at, p| to.templates = value::absolute(at, p)),
];

pub(super) const SMTP: &[Key<Smtp>] = &[
    Key::new("host", |to, at, p| put(&mut to.host, mail::host_name(at, p))),
    Key::new("port", |to, at, p| {
        put(&mut to.port, value::number(at, 1..=65535, p).and_then(|port| port.try_into().ok()))
    }),
    Key::new("security", |to, at, p| put(&mut to.security, value::word(at, SECURITY, p))),
    Key::new("username", |to, at, p| put(&mut mail::login(to).username, value::text(at, p).map(str::to_owned))),
    Key::new("password_file", |to, at, p| put(&mut mail::login(to).password, value::absolute(at, p).map(Secret::File))),
    Key::new("password_env", |to, at, p| put(&mut mail::login(to).password, mail::name(at, p).map(Secret::Env))),
    Key::new("password_credential", |to, at, p| {
        put(&mut mail::login(to).password, mail::name(at, p).map(Secret::Credential));
    }),
    Key::new("ca_file", |to, at, p| to.ca_file = value::absolute(at, p)),
    Key::new("timeout", |to, at, p| put(&mut to.timeout, value::duration(at, p))),
    Key::new("ehlo", |to, at, p| to.ehlo = mail::own_name(at, p)),
];

/// The keys of an entry of `hooks`.
pub(super) const HOOK: &[Key<Hook>] = &[
    Key::new("name", |to, at, p| put(&mut to.name, hooks::name(at, p))),
    Key::new("type", later),
    Key::new("phase", later),
    Key::new("command", |to, at, p| put(&mut to.command, hooks::command(at, p))),
    Key::new("where", |to, at, p| put(&mut to.place, value::word(at, PLACE, p))),
    Key::new("domains", |to, at, p| to.domains = value::words(at, p)),
    Key::new("order", |to, at, p| put(&mut to.order, hooks::order(at, p))),
    Key::new("env", |to, at, p| to.env = hooks::env(at, p)),
    Key::new("timeout", later),
    Key::new("ready_timeout", later),
    Key::new("hold_timeout", later),
    Key::new("release_timeout", later),
    Key::new("on_error", |to, at, p| put(&mut to.on_error, value::word(at, ON_ERROR, p))),
];
