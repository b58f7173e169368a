//! Owns: the configuration file, from YAML as written to [`Settings`] that are valid by construction.
//! Must not: act on them.

mod settings;

pub use settings::{DomainSettings, MethodChoice, MinFree, Quiesce, Rule, Settings};
