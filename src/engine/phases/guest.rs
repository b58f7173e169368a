//! Owns: a domain's agent as hooks reach it. Must not: know what is asked.

use serde_json::Value;

use crate::hooks::Agent;
use crate::hypervisor::Agents;
use crate::model::DomainRef;

/// The agent of one domain.
pub struct GuestAgent<'a> {
    /// libvirt.
    pub hypervisor: &'a dyn Agents,
    /// The domain.
    pub domain: &'a DomainRef,
}

impl Agent for GuestAgent<'_> {
    fn command(&self, request: &Value) -> Result<Value, Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.hypervisor.agent(self.domain, request)?)
    }
}
