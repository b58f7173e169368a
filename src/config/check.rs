//! Owns: the levels of the file (defaults, hosts, domains), what is required where, and which level wins. Must not: read
//! text, or act on what it says.

use std::path::PathBuf;
use std::time::Duration;

use chrono::Weekday;

use super::error::{Problem, Problems, Salvaged, nearest};
use super::hook::Hook;
use super::keys::{self, Level};
use super::node::{Kind, Node};
use super::place::Place;
use super::{
    DomainSettings, Exclusion, Mail, MethodChoice, Metrics, MinFree, Quiesce, Rule, Settings, hooks, mail, value,
};
use crate::model::Codec;
use crate::retention::Policy;

const DEFAULTS: &str = "defaults";
const EXCLUDE: &str = "exclude";
/// The middle, so that some can be put first and others last.
const PRIORITY: u32 = 50;

/// Checks the whole document and gives the section of `host`; `None` only if there are problems. What of it could be read
/// comes in any case.
pub(super) fn document(root: &Node, host: &str, problems: &mut Problems) -> (Option<Settings>, Salvaged) {
    let sections = Place::root(root).entries(problems);
    let (defaults, hosts): (Vec<_>, Vec<_>) = sections.into_iter().partition(|section| section.name == DEFAULTS);
    let defaults = defaults.first().map(|place| layer(&place.entries(problems), Level::Defaults, problems));
    let defaults = defaults.unwrap_or_default();
    let mut found = (None, defaults.salvaged());
    for place in &hosts {
        // The sections of other hosts are checked too: one file serves all of them.
        let entries = place.entries(problems);
        let layer = layer(&entries, Level::Host, problems).over(&defaults);
        let salvaged = layer.salvaged();
        let settings = section(place, &entries, layer, problems);
        if place.name == host {
            found = (settings, salvaged);
        }
    }
    let names: Vec<_> = hosts.iter().map(|place| place.name).collect();
    if !names.contains(&host) {
        problems.add(missing_host(host, &names));
    }
    found
}

fn missing_host(host: &str, names: &[&str]) -> Problem {
    let mut problem = Problem::of_file(Some(1), format!("no section for the host `{}`", host.escape_debug()));
    problem.valid = (!names.is_empty()).then(|| names.join(", "));
    problem.nearest = nearest(host, names.iter().copied());
    problem
}

fn section(place: &Place<'_>, entries: &[Place<'_>], layer: Layer, problems: &mut Problems) -> Option<Settings> {
    let entry = |name| entries.iter().find(|entry| entry.name == name);

    let backupdir = match entry("backupdir") {
        Some(entry) => value::absolute(entry, problems),
        None => {
            problems.add(place.wrong("`backupdir` is missing", "an absolute path"));
            None
        }
    };
    let domains = entry("domains").map(|place| (place, place.entries(problems)));
    let (mut rules, mut excluded) = (Vec::new(), Vec::new());
    match domains {
        Some((all, domains)) if domains.is_empty() => {
            if all.is_null() || matches!(&all.node.kind, Kind::Map(_)) {
                problems.add(all.problem("names no domain"));
            }
        }
        Some((_, domains)) => {
            for domain in &domains {
                let keys = domain.entries(problems);
                if is_excluded(&keys, problems) {
                    let pattern = domain.name.to_owned();
                    excluded.push(Exclusion { pattern, line: domain.line, after: rules.len() });
                } else {
                    let own = self::layer(&keys, Level::Domain, problems).over(&layer);
                    rules.extend(rule(domain, place.name, own, problems));
                }
            }
        }
        None => problems.add(place.problem("`domains` is missing")),
    }
    Some(Settings {
        host: place.name.to_owned(),
        backupdir: backupdir?,
        require_mount: layer.require_mount.unwrap_or(false),
        min_free: layer.min_free.unwrap_or(MinFree::Bytes(0)),
        stall_timeout: layer.stall_timeout.unwrap_or(Duration::from_secs(5 * 60)),
        state_dir: layer.state_dir.unwrap_or_else(|| PathBuf::from(super::STATE_DIR)),
        libvirt_uri: layer.libvirt_uri.unwrap_or_else(|| "qemu:///system".to_owned()),
        parallel: layer.parallel.unwrap_or(1),
        metrics: layer.metrics.unwrap_or_default(),
        mail: layer.mail,
        hooks: hooks::joined(layer.hooks, problems),
        rules,
        excluded,
    })
}

/// Whether the keys of an entry of `domains` exclude its domains. No other key may stand beside `exclude: true`.
fn is_excluded(keys: &[Place<'_>], problems: &mut Problems) -> bool {
    let Some(exclude) = keys.iter().find(|key| key.name == EXCLUDE) else { return false };
    let is_excluded = value::boolean(exclude, problems) == Some(true);
    if is_excluded && let Some(other) = keys.iter().find(|key| key.name != EXCLUDE) {
        problems.add(other.problem(format!("has no effect beside `{EXCLUDE}`")));
    }
    is_excluded
}

fn rule(place: &Place<'_>, host_name: &str, layer: Layer, problems: &mut Problems) -> Option<Rule> {
    if place.name.is_empty() {
        problems.add(place.problem("a domain without a name"));
    }
    let Some(days) = layer.days else {
        let message = "`day_of_week` is missing here, in the host's section and in `defaults`";
        problems.add(place.wrong(message, "days such as Mon or Sunday, or daily"));
        return None;
    };
    let domain = DomainSettings {
        job: layer.job.unwrap_or_else(|| host_name.to_owned()),
        days,
        catch_up: layer.catch_up.unwrap_or(false),
        priority: layer.priority.unwrap_or(PRIORITY),
        retention: layer.retention,
        compression: layer.compression.unwrap_or(Codec::Zstd(3)),
        quiesce: layer.quiesce.unwrap_or(Quiesce::Prefer),
        freeze_timeout: layer.freeze_timeout.unwrap_or(Duration::from_secs(30)),
        method: layer.method.unwrap_or(MethodChoice::Auto),
        exclude_disks: layer.exclude_disks.unwrap_or_default(),
        overlay_dir: layer.overlay_dir,
        scratch_dir: layer.scratch_dir,
        allow_plaintext: layer.allow_plaintext.unwrap_or(false),
        hooks: hooks::joined(layer.hooks, problems),
    };
    Some(Rule { pattern: place.name.to_owned(), line: place.line, domain })
}

/// What one level says; `None` where it says nothing. What it says wrongly stands as a problem and as some value, so that
/// nothing is also called missing.
#[derive(Debug, Clone, Default)]
struct Layer {
    require_mount: Option<bool>,
    min_free: Option<MinFree>,
    stall_timeout: Option<Duration>,
    state_dir: Option<PathBuf>,
    libvirt_uri: Option<String>,
    parallel: Option<usize>,
    metrics: Option<Metrics>,
    mail: Option<Mail>,
    job: Option<String>,
    days: Option<Vec<Weekday>>,
    catch_up: Option<bool>,
    priority: Option<u32>,
    retention: Option<Policy>,
    compression: Option<Codec>,
    quiesce: Option<Quiesce>,
    freeze_timeout: Option<Duration>,
    method: Option<MethodChoice>,
    exclude_disks: Option<Vec<String>>,
    overlay_dir: Option<PathBuf>,
    scratch_dir: Option<PathBuf>,
    allow_plaintext: Option<bool>,
    hooks: Vec<Hook>,
}

impl Layer {
    /// This level, and what it leaves open from a further one; hooks of both.
    fn over(self, further: &Layer) -> Layer {
        let further = further.clone();
        Layer {
            require_mount: self.require_mount.or(further.require_mount),
            min_free: self.min_free.or(further.min_free),
            stall_timeout: self.stall_timeout.or(further.stall_timeout),
            state_dir: self.state_dir.or(further.state_dir),
            libvirt_uri: self.libvirt_uri.or(further.libvirt_uri),
            parallel: self.parallel.or(further.parallel),
            metrics: self.metrics.or(further.metrics),
            mail: self.mail.or(further.mail),
            job: self.job.or(further.job),
            days: self.days.or(further.days),
            catch_up: self.catch_up.or(further.catch_up),
            priority: self.priority.or(further.priority),
            retention: self.retention.or(further.retention),
            compression: self.compression.or(further.compression),
            quiesce: self.quiesce.or(further.quiesce),
            freeze_timeout: self.freeze_timeout.or(further.freeze_timeout),
            method: self.method.or(further.method),
            exclude_disks: self.exclude_disks.or(further.exclude_disks),
            overlay_dir: self.overlay_dir.or(further.overlay_dir),
            scratch_dir: self.scratch_dir.or(further.scratch_dir),
            allow_plaintext: self.allow_plaintext.or(further.allow_plaintext),
            hooks: further.hooks.into_iter().chain(self.hooks).collect(),
        }
    }

    fn salvaged(&self) -> Salvaged {
        let textfile = self.metrics.as_ref().and_then(|metrics| metrics.textfile.clone());
        Salvaged { state_dir: self.state_dir.clone(), textfile, mail: self.mail.clone().map(Box::new) }
    }
}

/// Reads the keys of one level, except those of [`keys::HOST_ONLY`].
fn layer(entries: &[Place<'_>], level: Level, problems: &mut Problems) -> Layer {
    const QUIESCE: [(&str, Quiesce); 3] =
        [("require", Quiesce::Require), ("prefer", Quiesce::Prefer), ("never", Quiesce::Never)];
    const METHOD: [(&str, MethodChoice); 3] =
        [("auto", MethodChoice::Auto), ("snapshot", MethodChoice::Snapshot), ("pull", MethodChoice::Pull)];

    let allowed = keys::at(level);
    let mut layer = Layer::default();
    for entry in entries {
        if !allowed.contains(&entry.name) {
            let (message, list) = keys::refusal(entry.name, level);
            problems.add(if list { value::unknown_key(entry, &message, &allowed) } else { entry.problem(message) });
            continue;
        }
        match entry.name {
            "require_mount" => layer.require_mount = value::boolean(entry, problems),
            "min_free" => layer.min_free = value::min_free(entry, problems),
            "stall_timeout" => layer.stall_timeout = value::duration(entry, problems),
            "state_dir" => layer.state_dir = value::absolute(entry, problems),
            "libvirt_uri" => layer.libvirt_uri = value::libvirt_uri(entry, problems),
            "parallel" => layer.parallel = value::number(entry, 1..=64, problems).map(|n| n as usize),
            "metrics" => layer.metrics = Some(value::metrics(entry, problems)),
            "mail" => layer.mail = mail::read(entry, problems),
            "job" => layer.job = value::job(entry, problems),
            "day_of_week" => layer.days = Some(value::days(entry, problems)),
            "catch_up" => layer.catch_up = value::boolean(entry, problems),
            "priority" => layer.priority = value::number(entry, 0..=100, problems),
            "rotate" => {
                layer.retention = value::number(entry, 1..=u32::MAX, problems).map(Policy::rotate);
                if let Some(keep) = entries.iter().find(|entry| entry.name == "keep") {
                    let message = format!("conflicts with `keep` on line {}", keep.line);
                    problems.add(entry.wrong(message, "`rotate` or `keep`"));
                }
            }
            "keep" => layer.retention = value::keep(entry, problems),
            "compression" => layer.compression = value::compression(entry, problems),
            "quiesce" => layer.quiesce = value::word(entry, &QUIESCE, problems),
            "freeze_timeout" => layer.freeze_timeout = value::duration(entry, problems),
            "method" => layer.method = value::word(entry, &METHOD, problems),
            "exclude_disks" => layer.exclude_disks = Some(value::words(entry, problems)),
            "overlay_dir" => layer.overlay_dir = value::absolute(entry, problems),
            "scratch_dir" => layer.scratch_dir = value::absolute(entry, problems),
            "allow_plaintext" => layer.allow_plaintext = value::boolean(entry, problems),
            "hooks" => layer.hooks = hooks::read(entry, level, problems),
            // `backupdir`, `domains` and `exclude`, which the section reads itself.
            _ => {}
        }
    }
    layer
}
