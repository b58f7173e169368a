//! Owns: the definition that is restored: the saved one, or what this host accepts of it. Must not: write files, or leave
//! anything defined.

use std::path::Path;

use uuid::Uuid;

use super::plan::{self, Host, Plan};
use super::{Define, Operator, Request, define, other};
use crate::engine::Error;
use crate::hypervisor::{self, Hypervisor, Kind, domain_xml, domain_xml::rewrite};
use crate::model::DomainRef;
use crate::model::command::quoted;
use crate::store::Contents;
use crate::sys::opened;

/// How many of the elements that this host lacks are named.
const TOLD: usize = 20;

/// Bytes of an operator's definition, at most.
const MAX_XML: u64 = 16 << 20;

/// What a definition is made for.
pub struct Wanted<'a> {
    pub request: &'a Request,
    pub how: &'a Define,
    pub saved: &'a Contents,
    pub hypervisor: &'a dyn Hypervisor,
    pub host: &'a Host<'a>,
}

/// A definition that this host accepts, and what goes with it.
pub struct Accepted {
    pub plan: Plan,
    pub xml: String,
}

impl Wanted<'_> {
    /// Makes the definition of `to` from the first of these texts that this host accepts, and tries that out before anything
    /// is written: a definition that libvirt refuses should not cost hours of writing. If all are refused, the operator is shown what
    /// the first one reaches for, because it is about to be edited.
    pub fn accepted(&self, to: &DomainRef, texts: &[String], operator: &mut dyn Operator) -> Result<Accepted, Error> {
        let Some((first, others)) = texts.split_first() else { return Err(other("no definition", None)) };
        let mut accepted = self.make(to, first)?;
        if let Err(refusal) = self.try_out(&accepted.xml) {
            if refusal.kind() == Kind::Unreachable {
                return Err(refusal.into());
            }
            let fits = |text: &String| {
                let made = self.make(to, text).ok()?;
                self.try_out(&made.xml).ok().map(|()| (made, text.clone()))
            };
            let Some((made, text)) = others.iter().find_map(fits) else {
                operator.tell(&accepted.plan.notes);
                return Err(self.refused(refusal));
            };
            accepted = made;
            accepted.plan.notes.extend(differences(first, &text, refusal));
        }
        let missing = self.hypervisor.missing(&accepted.xml)?;
        accepted.plan.notes.extend(missing.iter().map(|what| format!("missing on this host: {what}")));
        Ok(accepted)
    }

    fn make(&self, to: &DomainRef, text: &str) -> Result<Accepted, Error> {
        let described = match &self.how.xml {
            None => define::describe(self.saved, text)?,
            Some(file) => edited(self.saved, file, text)?,
        };
        let mut plan = plan::domain(self.saved, self.request, &described, to, self.host)?;
        plan.changes.machine = self.how.machine.clone();
        let definition = rewrite(text, &plan.changes).map_err(define::xml_error(self.saved))?;
        plan.notes.extend(definition.notes);
        plan.notes.extend(definition.reaches.iter().map(|reach| reach.text.clone()));
        plan.reaches = definition.reaches;
        Ok(Accepted { plan, xml: definition.xml })
    }

    /// Under a name and a UUID of its own, so that no domain, and no state that libvirt keeps of one, is touched.
    fn try_out(&self, xml: &str) -> Result<(), hypervisor::Error> {
        let uuid = Uuid::new_v4();
        let trial = DomainRef { name: format!("kvmbackup-trial-{uuid}"), uuid };
        let xml = domain_xml::renamed(xml, &trial);
        let name = self.saved.domain.name.clone();
        self.hypervisor.try_define(&xml.map_err(|source| hypervisor::Error::Xml { domain: name, source })?)
    }

    fn refused(&self, refusal: hypervisor::Error) -> Error {
        let why = Error::from(refusal).failure().message;
        let about_machine = why.contains("machine type");
        let message = format!("this host does not accept the definition: {why}");
        let edit = match &self.how.xml {
            Some(file) => format!("Edit {} accordingly.", file.display()),
            None => format!("Extract the definition, edit it, and restore with --xml FILE: {}", self.unpacking()),
        };
        let hint = match about_machine && self.how.machine.is_none() {
            true => {
                format!("Use a machine type of this host (qemu-system-x86_64 -machine help): --machine TYPE; or {edit}")
            }
            false => edit,
        };
        Error::Rejected { message, hint: Some(hint) }
    }

    /// The command that gets the definition out of the archive.
    fn unpacking(&self) -> String {
        let archive = &self.saved.location;
        let name = archive.file_name().unwrap_or_default().to_string_lossy();
        let codec = [(".tar.zst", "--zstd "), (".tar.gz", "--gzip ")];
        let codec = codec.iter().find(|(end, _)| name.contains(end)).map_or("", |(_, codec)| codec);
        let document = self.saved.documents.iter().find(|(_, name)| name.ends_with("-inactive.xml"));
        let member = document.map_or("domain-inactive.xml", |(member, _)| member);
        format!("tar {codec}-xOf {} {} > FILE", quoted(&archive.to_string_lossy()), quoted(member))
    }
}

/// The operator's definition must be of the domain that was saved: its name and its UUID are what a restore changes.
fn edited(saved: &Contents, file: &Path, text: &str) -> Result<crate::model::Domain, Error> {
    let path = file.display();
    let hint = "Edit the saved definition, and keep its name and UUID; for another name: --name NEW";
    let described = define::read(text).map_err(|source| {
        let failure = Error::from(hypervisor::Error::Xml { domain: saved.domain.name.clone(), source }).failure();
        other(&format!("{path}: {}", failure.message), Some(hint))
    })?;
    if described.id != saved.domain {
        let message =
            format!("{path}: it defines {} ({}), not {}", described.id.name, described.id.uuid, saved.domain.name);
        return Err(other(&message, Some(hint)));
    }
    Ok(described)
}

/// The operator's definition.
pub fn read_file(path: &Path) -> Result<String, Error> {
    opened::read_named(path, MAX_XML).and_then(opened::text).map_err(Error::file("read", path))
}

fn differences(from: &str, to: &str, refusal: hypervisor::Error) -> Vec<String> {
    let why = Error::from(refusal).failure().message;
    let mut notes =
        vec![format!("this host does not accept the saved definition ({why}); using the one saved for other hosts")];
    let left = domain_xml::left_out(from, to).unwrap_or_default();
    let more = left.len().saturating_sub(TOLD);
    notes.extend(left.into_iter().take(TOLD).map(|what| format!("removed from the definition: {what}")));
    if more > 0 {
        notes.push(format!("removed from the definition: {more} more elements"));
    }
    notes
}
