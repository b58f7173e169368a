//! A hypervisor for the tests of the engine: a small model of one domain. Must not touch an image or know what the
//! engine does.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::hypervisor::{
    Agents, BackupJobs, BlockJob, Definitions, Error, Guests, Kind, OffKind, Overlay, PullJob, Said, SavedState,
    Snapshots, StateKind, domain_xml,
};
use crate::model::{Domain, DomainRef, DomainState, DomainXml};
use crate::store::fixture::{DOMAIN, UUID};

/// The images of each disk, the active one first, by target.
pub type Chains = BTreeMap<String, Vec<PathBuf>>;

/// Called for every call, with its name, how many calls of this name there were including this one, and the domain,
/// which it may change. If it returns a kind, the call fails and does nothing.
type When = Box<dyn FnMut(&str, usize, &mut Guest) -> Option<Kind> + Send>;

/// After more calls than this, the code must be waiting for something that never happens.
const MANY: usize = 300;

pub struct Guest {
    /// Whether libvirt knows the domain.
    pub known: bool,
    pub state: DomainState,
    pub off_kind: OffKind,
    /// The images that a running guest has open.
    pub live: Chains,
    /// The images that the definition names.
    pub defined: Chains,
    /// The block job: whether it is an active commit, and (done, total) for each query. The last pair repeats.
    pub job: Option<(bool, Vec<(u64, u64)>)>,
    /// Done and total of a commit that is started.
    pub commit: Vec<(u64, u64)>,
    pub frozen: bool,
    pub busy: bool,
    pub pull: Option<PathBuf>,
    pub io_errors: Option<Vec<String>>,
    pub checkpoints: Vec<String>,
}

/// A libvirt with one domain. Clones share it.
#[derive(Clone)]
pub struct Fake(Arc<Mutex<Inner>>);

struct Inner {
    guest: Guest,
    calls: Vec<String>,
    when: When,
}

pub fn id() -> DomainRef {
    DomainRef { name: DOMAIN.to_owned(), uuid: UUID }
}

pub fn failure(kind: Kind) -> Error {
    Error::Call { domain: DOMAIN.to_owned(), action: "do it".to_owned(), kind, source: said() }
}

/// A real error of libvirt, which only libvirt can create: its test driver requires a path.
pub fn said() -> Said {
    virt::error::clear_error_callback();
    virt::connect::Connect::open(Some("test:///")).err().unwrap().into()
}

impl Fake {
    /// A domain with these images, both live and in its definition.
    pub fn new(state: DomainState, target: &str, chain: &[&Path]) -> Fake {
        let chains = Chains::from([(target.to_owned(), chain.iter().map(|path| path.to_path_buf()).collect())]);
        let guest = Guest {
            known: true,
            state,
            off_kind: OffKind::Plain,
            live: chains.clone(),
            defined: chains,
            job: None,
            commit: vec![(0, 0), (4, 8), (4, 8), (8, 8)],
            frozen: false,
            busy: false,
            pull: None,
            io_errors: None,
            checkpoints: Vec::new(),
        };
        Fake(Arc::new(Mutex::new(Inner { guest, calls: Vec::new(), when: Box::new(|_, _, _| None) })))
    }

    pub fn when(&self, when: impl FnMut(&str, usize, &mut Guest) -> Option<Kind> + Send + 'static) {
        self.0.lock().unwrap().when = Box::new(when);
    }

    pub fn set(&self, change: impl FnOnce(&mut Guest)) {
        change(&mut self.0.lock().unwrap().guest);
    }

    pub fn get<T>(&self, look: impl FnOnce(&Guest) -> T) -> T {
        look(&self.0.lock().unwrap().guest)
    }

    /// The calls since this was last called.
    pub fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap().calls)
    }

    fn call(&self, name: &str) -> Result<MutexGuard<'_, Inner>, Error> {
        let mut guard = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let inner = &mut *guard;
        inner.calls.push(name.to_owned());
        assert!(inner.calls.len() < MANY, "too many calls");
        let number = inner.calls.iter().filter(|call| *call == name).count();
        let failed = (inner.when)(name, number, &mut inner.guest);
        let failed = failed.or((!inner.guest.known && name != "domains").then_some(Kind::NoDomain));
        failed.map_or(Ok(guard), |kind| Err(failure(kind)))
    }
}

fn xml(chains: &Chains) -> String {
    let mut devices = String::new();
    for (target, chain) in chains {
        let below = |below: String, path: &PathBuf| {
            let path = path.display();
            format!("<backingStore type='file'><format type='qcow2'/><source file='{path}'/>{below}</backingStore>")
        };
        let below = chain[1..].iter().rev().fold(String::new(), below);
        let path = chain[0].display();
        devices += &format!(
            "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{path}'/>{below}\
             <target dev='{target}'/></disk>"
        );
    }
    format!("<domain><name>{DOMAIN}</name><uuid>{UUID}</uuid><devices>{devices}</devices></domain>")
}

fn described(guest: &Guest) -> Domain {
    let live = if guest.state.is_active() { &guest.live } else { &guest.defined };
    let xml = DomainXml { live: xml(live), inactive: xml(&guest.defined), migratable: String::new() };
    domain_xml::read(xml, guest.state, true).unwrap().domain
}

impl Guests for Fake {
    fn version(&self) -> Result<String, Error> {
        unreachable!()
    }

    fn domains(&self) -> Result<Vec<(DomainRef, DomainState)>, Error> {
        let inner = self.call("domains")?;
        Ok(if inner.guest.known { vec![(id(), inner.guest.state)] } else { vec![] })
    }

    fn describe(&self, _: &DomainRef) -> Result<Domain, Error> {
        Ok(described(&self.call("describe")?.guest))
    }

    fn pools(&self) -> Result<Vec<PathBuf>, Error> {
        Ok(Vec::new())
    }

    fn persistent(&self, _: &DomainRef) -> Result<Option<Domain>, Error> {
        let inner = self.call("persistent")?;
        let xml = xml(&inner.guest.defined);
        let xml = DomainXml { live: xml.clone(), inactive: xml, migratable: String::new() };
        Ok(Some(domain_xml::read(xml, inner.guest.state, true).unwrap().domain))
    }

    fn state(&self, _: &DomainRef) -> Result<DomainState, Error> {
        Ok(self.call("state")?.guest.state)
    }

    fn off_kind(&self, _: &DomainRef) -> Result<OffKind, Error> {
        Ok(self.call("off_kind")?.guest.off_kind)
    }

    fn io_errors(&self, _: &DomainRef) -> Result<Option<Vec<String>>, Error> {
        Ok(self.call("io_errors")?.guest.io_errors.clone())
    }

    fn job(&self, _: &DomainRef) -> Result<Option<String>, Error> {
        Ok(self.call("job")?.guest.busy.then(|| "snapshot".to_owned()))
    }

    fn resume(&self, _: &DomainRef) -> Result<(), Error> {
        let guest = &mut self.call("resume")?.guest;
        (guest.state, guest.io_errors) = (DomainState::Running, None);
        Ok(())
    }

    fn saved_states(&self, _: &DomainRef) -> Result<Vec<SavedState>, Error> {
        let checkpoints = self.call("saved_states")?.guest.checkpoints.clone().into_iter();
        Ok(checkpoints.map(|name| SavedState { name, kind: StateKind::Checkpoint }).collect())
    }
}

impl Agents for Fake {
    fn freeze(&self, _: &DomainRef, _: Duration) -> Result<(), Error> {
        self.call("freeze")?.guest.frozen = true;
        Ok(())
    }

    fn thaw(&self, _: &DomainRef) -> Result<(), Error> {
        self.call("thaw")?.guest.frozen = false;
        Ok(())
    }

    fn is_frozen(&self, _: &DomainRef) -> Result<bool, Error> {
        Ok(self.call("is_frozen")?.guest.frozen)
    }

    fn agent(&self, _: &DomainRef, _: &serde_json::Value) -> Result<serde_json::Value, Error> {
        unreachable!()
    }
}

impl Snapshots for Fake {
    fn disk_size(&self, _: &DomainRef, _: &str) -> Result<u64, Error> {
        unreachable!()
    }

    fn snapshot(&self, _: &DomainRef, _: &[Overlay], _: &[String]) -> Result<(), Error> {
        unreachable!()
    }

    fn start_commit(&self, _: &DomainRef, target: &str, image: &Path) -> Result<(), Error> {
        let guest = &mut self.call("start_commit")?.guest;
        if guest.live[target][0] != image {
            return Err(failure(Kind::Other));
        }
        assert!(guest.job.is_none(), "a block job is already running");
        guest.job = Some((true, guest.commit.clone()));
        Ok(())
    }

    fn block_job(&self, _: &DomainRef, _: &str) -> Result<Option<BlockJob>, Error> {
        let guest = &mut self.call("block_job")?.guest;
        let Some((active_commit, looks)) = &mut guest.job else { return Ok(None) };
        let (done, total) = if looks.len() > 1 { looks.remove(0) } else { looks[0] };
        Ok(Some(BlockJob { active_commit: *active_commit, done, total }))
    }

    /// Like libvirt, also changes the definition if it names the same image.
    fn pivot(&self, _: &DomainRef, target: &str) -> Result<(), Error> {
        let guest = &mut self.call("pivot")?.guest;
        if guest.job.take_if(|(_, looks)| looks.len() == 1).is_none() {
            return Err(failure(Kind::NotReady));
        }
        let top = guest.live[target][0].clone();
        for chains in [&mut guest.live, &mut guest.defined] {
            chains.get_mut(target).unwrap().retain(|image| *image != top);
        }
        Ok(())
    }

    fn cancel_commit(&self, _: &DomainRef, _: &str) -> Result<(), Error> {
        self.call("cancel_commit")?.guest.job = None;
        Ok(())
    }
}

impl BackupJobs for Fake {
    fn socket_path(&self, _: &DomainRef, _: &str) -> Result<Option<PathBuf>, Error> {
        unreachable!()
    }

    fn begin_pull(&self, _: &DomainRef, _: &PullJob, _: &[String]) -> Result<(), Error> {
        unreachable!()
    }

    fn pull_socket(&self, _: &DomainRef) -> Result<Option<PathBuf>, Error> {
        Ok(self.call("pull_socket")?.guest.pull.clone())
    }

    fn end_pull(&self, _: &DomainRef) -> Result<(), Error> {
        let guest = &mut self.call("end_pull")?.guest;
        (guest.pull, guest.busy) = (None, false);
        Ok(())
    }

    fn remove_bitmap(&self, _: &DomainRef, _: &str) -> Result<(), Error> {
        Ok(())
    }

    fn delete_checkpoint(&self, _: &DomainRef, name: &str, only_record: bool) -> Result<(), Error> {
        let call = if only_record { "forget_checkpoint" } else { "delete_checkpoint" };
        self.call(call)?.guest.checkpoints.retain(|other| other != name);
        Ok(())
    }
}

impl Definitions for Fake {
    fn define_disk(&self, id: &DomainRef, disk: &str) -> Result<(), Error> {
        let mut inner = self.call("define_disk")?;
        let xml = format!(
            "<domain type='kvm'><name>{}</name><uuid>{}</uuid><devices>{disk}</devices></domain>",
            id.name, id.uuid
        );
        let same = DomainXml { live: xml.clone(), inactive: xml, migratable: String::new() };
        let domain = domain_xml::read(same, DomainState::Off, true).unwrap().domain;
        let chain = |disk: &crate::model::Disk| {
            let images = std::iter::once(&disk.image).chain(&disk.backing);
            (disk.target.clone(), images.map(|image| image.source.path().unwrap().to_owned()).collect())
        };
        inner.guest.defined.extend(domain.disks.iter().map(chain));
        Ok(())
    }

    fn define(&self, _: &str) -> Result<DomainRef, Error> {
        unreachable!()
    }

    fn try_define(&self, _: &str) -> Result<(), Error> {
        unreachable!()
    }

    fn missing(&self, _: &str) -> Result<Vec<String>, Error> {
        unreachable!()
    }

    fn start(&self, _: &DomainRef) -> Result<(), Error> {
        unreachable!()
    }

    fn set_autostart(&self, _: &DomainRef, _: bool) -> Result<(), Error> {
        unreachable!()
    }
}
