//! The setting of a round: its own host whose libvirtd restarts, a small file system, or a guest with an operating
//! system.

use std::rc::Rc;

use super::acts::{ALL, Act};
use crate::lab::{Host, Lab, Small};

/// The parts of a setting besides the guest.
#[derive(Clone, Copy, Default)]
pub struct Setting {
    /// Its own host, whose libvirtd may be restarted.
    pub host: bool,
    /// The images are on a small file system, which may be filled.
    pub small: bool,
    /// The guest runs an operating system, whose file systems may be frozen.
    pub system: bool,
}

impl Setting {
    /// The setting of a round. Eight consecutive rounds have each part at least once.
    pub fn of(seed: u64) -> Self {
        Setting { host: matches!(seed % 8, 1 | 5), small: matches!(seed % 8, 3 | 5), system: seed % 16 == 7 }
    }

    /// The actions that it allows.
    pub fn acts(self) -> Vec<Act> {
        let mut acts = ALL.to_vec();
        // Nearly as often as all others together.
        let more = |yes: bool, acts: [Act; 2]| acts.into_iter().cycle().take(if yes { 10 } else { 0 });
        acts.extend(more(self.host, [Act::Restart; 2]));
        acts.extend(more(self.small, [Act::Fill, Act::Free]));
        acts.extend(more(self.system, [Act::Freeze, Act::Thaw]));
        acts
    }
}

/// The environment of a round. Its guest must be dropped first.
pub struct Place {
    pub host: Option<Rc<Host>>,
    _small: Option<Small>,
    pub lab: Rc<Lab>,
}

impl Place {
    /// `guest` is the name of the guest that will be defined.
    pub fn new(setting: Setting, guest: &str) -> Self {
        let lab = Rc::new(Lab::new());
        let small = setting.small.then(|| Small::mount(lab.path("images").join(guest), "48M"));
        // The namespace inherits the existing mounts.
        let host = setting.host.then(|| Rc::new(Host::start(&lab)));
        Place { host, _small: small, lab }
    }

    /// Calls it there.
    pub fn on<T>(&self, act: impl FnOnce() -> T) -> T {
        match &self.host {
            Some(host) => host.on(act),
            None => act(),
        }
    }
}
