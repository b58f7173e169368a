//! Checks after every successful backup of a guest that does not write: its disks are in the archive byte for byte, and
//! are restored exactly; standard tools can open the archive; the guest and the host are unchanged.

use serde_json::{Value, json};

use super::{Contents, Guest, Lab, Program, Report, Unpacked};

/// Turns each test into two, one for each method of capturing a running domain. The test gets the method's name.
#[allow(unused_macros, reason = "every test binary compiles the lab and uses a part of it")]
macro_rules! by_each_method {
    ($($test:ident)*) => {
        mod by_snapshot { $(#[test] fn $test() { super::$test("snapshot"); })* }
        mod by_pull { $(#[test] fn $test() { super::$test("pull"); })* }
    };
}
pub(crate) use by_each_method;

/// A backup of one guest.
pub struct Saved {
    /// The program.
    pub program: Program,
    /// Its report.
    pub report: Report,
    /// The archive.
    pub archive: Unpacked,
    domain: String,
}

impl Saved {
    /// The domain's part of the report.
    pub fn outcome(&self) -> &Value {
        self.report.domain(&self.domain)
    }

    /// The disk that is not in the archive.
    pub fn skipped(&self, target: &str) -> &Value {
        self.report.skipped(&self.domain, target)
    }
}

/// Backs up a guest that is paused or off, expects success, and runs all checks. `targets` are the disks that must be
/// in the archive, in the order of the XML; `keys` are the domain's in the configuration.
pub fn save_exactly(lab: &Lab, guest: &Guest, keys: Value, targets: &[&str]) -> Saved {
    save_contents(lab, guest, keys, targets, &Contents::of(lab, guest, targets))
}

/// [`save_exactly`] with disks that were copied in another way.
pub fn save_contents(lab: &Lab, guest: &Guest, keys: Value, targets: &[&str], contents: &Contents) -> Saved {
    let (state, definition) = (guest.state(), guest.inactive_xml());
    let (method, consistency) = match state.as_str() {
        "shut off" => (Some(json!("direct")), "offline"),
        _ => (keys.get("method").filter(|method| **method != "auto").cloned(), "crash"),
    };
    let program = Program::new(lab).domain(guest.name(), keys);
    let report = program.backup_well();
    let outcome = report.domain(guest.name());
    assert_eq!(outcome["outcome"], "success", "{outcome:#}");
    assert_eq!(outcome["consistency"], consistency, "{outcome:#}");
    assert!(method.is_none_or(|method| outcome["method"] == method), "{outcome:#}");
    assert_eq!(report.disks(guest.name()), targets);
    let archive = program.unpack(&report, guest.name());
    contents.assert_saved_in(&archive);
    contents.assert_restored_by(&program, guest.name(), &archive);
    assert_eq!(guest.state(), state);
    assert_eq!(guest.inactive_xml(), definition, "the definition changed");
    program.assert_no_leftovers(guest);
    contents.assert_still_on(guest);
    Saved { program, report, archive, domain: guest.name().to_owned() }
}
