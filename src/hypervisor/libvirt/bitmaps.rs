//! Removes dirty bitmaps through QEMU's monitor, where libvirt has no call for it. Must not touch any other bitmap than
//! the named one.
//!
//! libvirt marks a domain as tainted after such a command, so this is only for bitmaps that libvirt cannot delete: an
//! inconsistent one, which QEMU keeps after a crash and which makes resizing the disk fail, and one whose checkpoint is gone.

use serde_json::{Value, json};
use virt::domain::Domain as Handle;

use super::call;
use crate::hypervisor::error::bounded;
use crate::hypervisor::{Error, in_ascii};
use crate::model::DomainRef;

pub(super) fn remove(handle: &Handle, domain: &DomainRef, name: &str) -> Result<(), Error> {
    // Without `flat`, every node would contain its whole chain.
    let query = json!({"execute": "query-named-block-nodes", "arguments": {"flat": true}});
    let answer = ask(handle, domain, &query)?;
    let mut result = Ok(());
    for node in answer.as_array().into_iter().flatten().filter(|node| has(node, name)) {
        let arguments = json!({"node": node["node-name"], "name": name});
        let removed = ask(handle, domain, &json!({"execute": "block-dirty-bitmap-remove", "arguments": arguments}));
        // One in a read-only image below does not matter to QEMU.
        result = result.and(removed.map(drop).or_else(|error| if node["ro"] == true { Ok(()) } else { Err(error) }));
    }
    result
}

fn has(node: &Value, bitmap: &str) -> bool {
    node["dirty-bitmaps"].as_array().into_iter().flatten().any(|found| found["name"] == bitmap)
}

fn ask(handle: &Handle, domain: &DomainRef, command: &Value) -> Result<Value, Error> {
    let answer = handle.qemu_monitor_command(&in_ascii(command), 0);
    let answer = answer.map_err(|source| call(domain, "query its bitmaps", source))?;
    let mut answer: Value = serde_json::from_str(&answer).unwrap_or_default();
    match answer.get_mut("return") {
        Some(value) => Ok(value.take()),
        None => {
            let said = answer["error"]["desc"].as_str().unwrap_or("no answer").to_owned();
            Err(Error::Monitor { domain: domain.name.clone(), answer: bounded(&said) })
        }
    }
}
