//! The value of the key `copies`, and its limits. Must not open a copy, or read a secret.

use std::time::Duration;

use super::error::Problems;
use super::key;
use super::keys::COPY;
use super::node::Kind;
use super::place::Place;
use super::repository::{self, RepositorySettings};
use super::value;
use crate::model::RepositoryAddress;
use crate::sys::secret::Secret;

/// A copy of the repository in another place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopySettings {
    /// Its name, as metrics and commands use it.
    pub name: String,
    /// Where it is.
    pub to: RepositoryAddress,
    /// Where its password is stored.
    pub password: Secret,
    /// Planned time between two copies.
    pub every: Duration,
    /// Number of newest restore points of each guest that it keeps; `None` removes none.
    pub keep: Option<u32>,
    /// How long copying may take, including the wait for other processes.
    pub timeout: Duration,
}

/// The entries of `copies`, in their order, without those that are incomplete or invalid.
pub(super) fn read(place: &Place<'_>, problems: &mut Problems) -> Vec<CopySettings> {
    match &place.node.kind {
        _ if place.is_null() => Vec::new(),
        Kind::List(_) => place.items().iter().filter_map(|item| copy(item, problems)).collect(),
        _ => {
            problems.add(place.problem("must be a list (`- name: …` below it)"));
            Vec::new()
        }
    }
}

fn copy(place: &Place<'_>, problems: &mut Problems) -> Option<CopySettings> {
    let mut copy = CopySettings {
        name: String::new(),
        to: "/".parse().ok()?,
        password: Secret::Env(String::new()),
        every: Duration::from_secs(86_400),
        keep: None,
        timeout: Duration::from_secs(12 * 3600),
    };
    let before = problems.count();
    let entries = key::inside(place, &mut copy, COPY, problems);
    key::require(place, &entries, "name", None, problems);
    key::require(place, &entries, "to", Some(RepositoryAddress::VALID), problems);
    repository::require_password(place, &entries, problems);
    (problems.count() == before).then_some(copy)
}

/// Reports copies with the same name or address, or at the address of the repository itself.
pub(super) fn expect_different(place: &Place<'_>, repository: &RepositorySettings, problems: &mut Problems) {
    let copies = &repository.copies;
    for (at, copy) in copies.iter().enumerate() {
        let (name, to) = (&copy.name, &copy.to);
        if copies[..at].iter().any(|other| other.name == *name) {
            problems.add(place.problem(format!("`{name}` is given twice")));
        }
        if copies[..at].iter().any(|other| other.to.is_at(to.exposed())) {
            problems.add(place.problem(format!("`{name}` has the address of another copy: {to}")));
        }
        if to.is_at(&repository.path.to_string_lossy()) {
            problems.add(place.problem(format!("`{name}` has the address of the repository itself: {to}")));
        }
    }
}

/// The address of a repository. It may contain a password, so no message repeats it.
pub(super) fn address(place: &Place<'_>, problems: &mut Problems) -> Option<RepositoryAddress> {
    let address = value::text(place, problems)?.parse().ok();
    if address.is_none() {
        problems.add(place.wrong("is not the address of a repository", RepositoryAddress::VALID));
    }
    address
}
