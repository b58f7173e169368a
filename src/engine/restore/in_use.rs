//! Owns: refusing to write over what a guest or another program uses. Must not: write, or look for users itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::plan::{How, Plan};
use super::staging::Staging;
use crate::engine::Error;
use crate::engine::users::{self, Role, Use, User, Users};
use crate::hypervisor::Hypervisor;
use crate::model::DomainRef;
use crate::model::command::quoted;
use crate::sys::in_use;

/// Fails when something that exists and would be written over is used: by any domain but `own`, running or not, or by a process
/// or device of the host. Without a hypervisor, no definition can be asked.
pub fn expect_unused(
    plan: &Plan,
    hypervisor: Option<&dyn Hypervisor>,
    own: Option<&DomainRef>,
    staging: &Staging,
) -> Result<(), Error> {
    let there = replaced(plan, staging)?;
    if there.is_empty() {
        return Ok(());
    }
    let domains = Arc::new(hypervisor.map(|hypervisor| Users::look(hypervisor)).transpose()?.unwrap_or_default());
    for path in there {
        let (domains, own, file) = (domains.clone(), own.cloned(), path.clone());
        let users =
            staging.call("find out which process uses", &path, move || counting(&domains, &file, own.as_ref()))?;
        if let Some(first) = users.first() {
            let names: Vec<String> = users.iter().map(User::to_string).collect();
            let message = format!("{}: in use by {}", path.display(), names.join(", "));
            return Err(Error::Rejected { message, hint: Some(hint(first)) });
        }
    }
    Ok(())
}

/// The files and devices that exist and would be written over.
pub fn replaced(plan: &Plan, staging: &Staging) -> Result<Vec<PathBuf>, Error> {
    let Some(first) = plan.writes.first() else { return Ok(Vec::new()) };
    let all: Vec<(bool, PathBuf)> =
        plan.writes.iter().map(|write| (matches!(write.how, How::Device(_)), write.to.clone())).collect();
    let overwrites = staging.overwrites();
    let is_replaced = move |(device, path): &(bool, PathBuf)| *device || (overwrites && path.exists());
    staging.call("access", &first.to, move || Ok(all.into_iter().filter(is_replaced).map(|(_, path)| path).collect()))
}

/// Who counts: of processes, guests and those that write. One that only reads, as udev does, loses nothing.
fn counting(domains: &Users, path: &Path, own: Option<&DomainRef>) -> Result<Vec<User>, Error> {
    let is_foreign = |one: &&Use| one.active || own.is_none_or(|own| own.uuid != one.domain.uuid);
    let mut found: Vec<User> =
        domains.domains(path)?.into_iter().filter(is_foreign).cloned().map(User::Domain).collect();
    let is_named = |guest: &str| {
        found.iter().any(|user| matches!(user, User::Domain(one) if one.active && one.domain.name == guest))
    };
    let counts = |user: &in_use::User| match user {
        in_use::User::Process { guest: Some(guest), .. } => !is_named(guest),
        in_use::User::Process { writes, .. } => *writes,
        in_use::User::Loop(_) => true,
    };
    let hosts: Vec<User> = users::open(path)?.into_iter().filter(counts).map(User::Host).collect();
    found.extend(hosts);
    Ok(found)
}

fn hint(user: &User) -> String {
    const ELSEWHERE: &str = "restore elsewhere: --to DIR";
    match user {
        User::Domain(Use { domain, active: true, .. }) => {
            format!("Shut the guest down first: virsh shutdown {}; or {ELSEWHERE}", quoted(&domain.name))
        }
        User::Host(in_use::User::Process { guest: Some(guest), .. }) => {
            format!("Shut the guest down first: virsh shutdown {}; or {ELSEWHERE}", quoted(guest))
        }
        User::Domain(Use { domain, role: Role::Below, target, .. }) => format!(
            "{ELSEWHERE}; images based on the old contents would be corrupted. Give disk {target} of {} a standalone \
             image first (qemu-img convert), or undefine that domain",
            quoted(&domain.name)
        ),
        User::Domain(Use { domain, .. }) => {
            format!("{ELSEWHERE}; or, if that domain is no longer needed: virsh undefine {}", quoted(&domain.name))
        }
        User::Host(in_use::User::Loop(name)) => format!("{ELSEWHERE}; or detach it: losetup -d /dev/{name}"),
        User::Host(in_use::User::Process { .. }) => format!("{ELSEWHERE}; or stop that process first"),
    }
}
