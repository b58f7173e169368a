//! Owns: what a definition needs of this host and does not find. Must not: change anything, or refuse the definition.

use std::path::Path;

use virt::connect::Connect;
use virt::enumutil::Enum;
use virt::error::{Error as VirtError, ErrorNumber};

use super::ffi;
use crate::hypervisor::domain_xml::{self, Needs};
use crate::hypervisor::{Error, domain_xml::Cpu};

/// The network devices of the host.
const LINKS: &str = "/sys/class/net";

/// Lines for people. What cannot be asked for is not said to be missing.
pub(super) fn missing(connection: &Connect, xml: &str) -> Result<Vec<String>, Error> {
    let Needs { networks, links, filters, pools, cpu } =
        domain_xml::needs(xml).map_err(|source| Error::Xml { domain: "domain".to_owned(), source })?;
    let mut missing = Vec::new();
    for name in networks {
        let network = connection.lookup_network_by_name(&name);
        if is_absent(&network) {
            missing.push(format!("the network {name} (see virsh net-list --all)"));
        } else if let Ok(false) = network.and_then(|network| network.is_active()) {
            missing.push(format!("the active network {name} (start it: virsh net-start {name})"));
        }
    }
    for name in links.iter().filter(|name| !Path::new(LINKS).join(name).exists()) {
        missing.push(format!("the network device {name} (see ip link)"));
    }
    for name in filters.iter().filter(|name| is_absent(&connection.lookup_nwfilter_by_name(name))) {
        missing.push(format!("the network filter {name} (see virsh nwfilter-list)"));
    }
    for name in pools.iter().filter(|name| is_absent(&connection.lookup_storage_pool_by_name(name))) {
        missing.push(format!("the storage pool {name} (see virsh pool-list --all)"));
    }
    missing.extend(cpu.filter(|cpu| cannot_run(connection, cpu)).map(|cpu| {
        let model = cpu.model;
        format!("the CPU model {model}, or features that the definition adds to it (see virsh domcapabilities)")
    }));
    Ok(missing)
}

/// Whether libvirt says that it knows none of this name.
fn is_absent<T>(found: &Result<T, VirtError>) -> bool {
    let codes = [ErrorNumber::NoNetwork, ErrorNumber::NoNwfilter, ErrorNumber::NoStoragePool];
    found.as_ref().is_err_and(|error| codes.iter().any(|code| error.code() == Enum::Known(*code)))
}

fn cannot_run(connection: &Connect, cpu: &Cpu) -> bool {
    matches!(ffi::compare_cpu(connection, cpu), Ok(virt_sys::VIR_CPU_COMPARE_INCOMPATIBLE))
}
