//! Applies the levels of the file (defaults, hosts, domains): what is required where, and which level takes precedence.
//! Must not read single values, or act on them.

use std::path::{Path, PathBuf};

use chrono::Weekday;

use super::error::{Problem, Problems, Salvaged, nearest};
use super::key::{self, Level};
use super::node::Node;
use super::place::Place;
use super::{DomainSettings, Exclusion, Rule, STATE_DIR, Settings, StoreChoice, hooks, keys, value};
use crate::model::StoreKind;

const DEFAULTS: &str = "defaults";
const EXCLUDE: &str = "exclude";

/// Checks the whole document and returns the section of `host`, which is complete only if there are no problems. Also
/// returns what could be read in any case.
pub(super) fn document(root: &Node, host: &str, problems: &mut Problems) -> (Option<Settings>, Salvaged) {
    let sections = Place::root(root).entries(problems);
    let (defaults, hosts): (Vec<_>, Vec<_>) = sections.into_iter().partition(|section| section.name == DEFAULTS);
    let defaults = defaults.first().map(|place| place.entries(problems)).unwrap_or_default();
    let defaults = Layer::usual().with(&defaults, Level::Defaults, problems);
    let mut found = (None, defaults.salvaged());
    for place in &hosts {
        // The sections of other hosts are checked too, because one file serves all of them.
        let entries = place.entries(problems);
        let layer = defaults.with(&entries, Level::Host, problems);
        let salvaged = layer.salvaged();
        let settings = section(place, &entries, layer, problems);
        if place.name == host {
            found = (Some(settings), salvaged);
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

fn section(place: &Place<'_>, entries: &[Place<'_>], mut layer: Layer, problems: &mut Problems) -> Settings {
    let own = key::find(entries, "repository");
    if layer.host.repository.is_none() && own.is_none() {
        key::require(place, entries, "backupdir", Some("an absolute path"), problems);
    }
    if layer.host.require_mount && layer.host.backupdir.is_none() && layer.host.in_bucket() {
        let at = key::find(entries, "require_mount").unwrap_or(place);
        problems.add(at.wrong("`require_mount` is only for a target in a directory, not for a bucket", "false"));
    }
    key::require(place, entries, "domains", None, problems);
    let (mut rules, mut excluded) = (Vec::new(), Vec::new());
    if let Some(all) = key::find(entries, "domains") {
        let domains = all.entries(problems);
        if domains.is_empty() && all.is_mapping() {
            problems.add(all.problem("no domain given"));
        }
        for domain in &domains {
            let keys = domain.entries(problems);
            if is_excluded(&keys, problems) {
                let pattern = domain.name.to_owned();
                excluded.push(Exclusion { pattern, line: domain.line, after: rules.len() });
            } else {
                rules.extend(rule(domain, place.name, layer.with(&keys, Level::Domain, problems), problems));
            }
        }
    }
    let uses = |rule: &Rule| rule.domain.store.kinds().contains(&StoreKind::Repository);
    if own.is_none() && layer.host.backupdir.is_some() && !rules.iter().any(uses) {
        // The repository of `defaults` is for other hosts.
        layer.host.repository = None;
    }
    let hooks = hooks::joined(layer.domain.hooks, problems);
    Settings { host: place.name.to_owned(), hooks, rules, excluded, ..layer.host }
}

/// Whether the keys of an entry of `domains` exclude its domains. Other keys are not allowed with `exclude: true`.
fn is_excluded(keys: &[Place<'_>], problems: &mut Problems) -> bool {
    let Some(exclude) = key::find(keys, EXCLUDE) else { return false };
    let is_excluded = value::boolean(exclude, problems) == Some(true);
    if is_excluded && let Some(other) = keys.iter().find(|key| key.name != EXCLUDE) {
        problems.add(other.problem(format!("has no effect with `{EXCLUDE}: true`")));
    }
    is_excluded
}

fn rule(place: &Place<'_>, host_name: &str, layer: Layer, problems: &mut Problems) -> Option<Rule> {
    if place.name.is_empty() {
        problems.add(place.problem("the domain has no name"));
    }
    let store = store(place, &layer, problems);
    let Some(days) = layer.days else {
        let message = "`day_of_week` is missing here, in the host's section and in `defaults`";
        problems.add(place.wrong(message, "days such as Mon or Sunday, or daily"));
        return None;
    };
    let hooks = hooks::joined(layer.domain.hooks, problems);
    let job = if layer.domain.job.is_empty() { host_name.to_owned() } else { layer.domain.job };
    let domain = DomainSettings { job, days, store, hooks, ..layer.domain };
    Some(Rule { pattern: place.name.to_owned(), line: place.line, domain })
}

/// Where a domain is stored. By default in the directory for archives, if there is one.
fn store(place: &Place<'_>, layer: &Layer, problems: &mut Problems) -> StoreChoice {
    let stores = layer.host.stores();
    let usual = stores.first().map_or(StoreChoice::Archive, |kind| (*kind).into());
    let choice = layer.store.unwrap_or(usual);
    // Without any store, that is the problem.
    for missing in choice.kinds().iter().filter(|kind| !stores.is_empty() && !stores.contains(kind)) {
        let (key, level) = match missing {
            StoreKind::Archive => ("backupdir", "in the host's section"),
            StoreKind::Repository => ("repository", "in the host's section or in `defaults`"),
        };
        problems.add(place.problem(format!("its `store` requires `{key}` {level}")));
    }
    choice
}

/// The settings of one level and its outer levels, on top of the defaults. An invalid value is a problem and changes
/// nothing.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    pub(super) level: Level,
    pub(super) host: Settings,
    pub(super) domain: DomainSettings,
    /// `None` if no level sets them.
    pub(super) days: Option<Vec<Weekday>>,
    /// `None` if no level sets it.
    pub(super) store: Option<StoreChoice>,
}

impl Layer {
    fn usual() -> Layer {
        Layer {
            level: Level::Defaults,
            host: Settings::usual(),
            domain: DomainSettings::usual(),
            days: None,
            store: None,
        }
    }

    fn with(&self, entries: &[Place<'_>], level: Level, problems: &mut Problems) -> Layer {
        let mut layer = Layer { level, ..self.clone() };
        key::level(&mut layer, entries, level, keys::KEYS, problems);
        key::exclude(entries, &["rotate", "keep"], problems);
        layer
    }

    fn salvaged(&self) -> Salvaged {
        let named = |path: &PathBuf| Some(path.clone()).filter(|path| path != Path::new(STATE_DIR));
        Salvaged {
            state_dir: named(&self.host.state_dir),
            textfile: self.host.metrics.textfile.clone(),
            mail: self.host.mail.clone().map(Box::new),
        }
    }
}
