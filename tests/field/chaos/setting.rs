//! Where a round takes place: a host of its own whose libvirtd restarts, a small file system, a guest with a system.

use std::rc::Rc;

use super::acts::{ALL, Act};
use crate::lab::{Host, Lab, Small};

/// What a round has besides its guest.
#[derive(Clone, Copy, Default)]
pub struct Setting {
    /// A host of its own, whose libvirtd may be restarted.
    pub host: bool,
    /// The images lie on a small file system, which may be filled.
    pub small: bool,
    /// The guest runs a system, whose file systems may be frozen.
    pub system: bool,
}

impl Setting {
    /// The one of a round: eight rounds in a row have each at least once.
    pub fn of(seed: u64) -> Self {
        Setting { host: matches!(seed % 8, 1 | 5), small: matches!(seed % 8, 3 | 5), system: seed % 16 == 7 }
    }

    /// What the operator may do in it.
    pub fn acts(self) -> Vec<Act> {
        let mut acts = ALL.to_vec();
        // As often as all others together do, nearly.
        let more = |yes: bool, acts: [Act; 2]| acts.into_iter().cycle().take(if yes { 10 } else { 0 });
        acts.extend(more(self.host, [Act::Restart; 2]));
        acts.extend(more(self.small, [Act::Fill, Act::Free]));
        acts.extend(more(self.system, [Act::Freeze, Act::Thaw]));
        acts
    }
}

/// The place of a round. Its guest must go before it.
pub struct Place {
    pub host: Option<Rc<Host>>,
    _small: Option<Small>,
    pub lab: Rc<Lab>,
}

impl Place {
    /// `guest` is the name of the guest to be.
    pub fn new(setting: Setting, guest: &str) -> Self {
        let lab = Rc::new(Lab::new());
        let small = setting.small.then(|| Small::mount(lab.path("images").join(guest), "48M"));
        // It has the mounts that are there already.
        let host = setting.host.then(|| Rc::new(Host::start(&lab)));
        Place { host, _small: small, lab }
    }

    /// Does it there.
    pub fn on<T>(&self, act: impl FnOnce() -> T) -> T {
        match &self.host {
            Some(host) => host.on(act),
            None => act(),
        }
    }
}
