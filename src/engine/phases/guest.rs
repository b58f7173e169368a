//! Gives hooks access to a domain's guest agent. Must not know what they ask.

use serde_json::Value;

use crate::hooks::Agent;
use crate::hypervisor::Agents;
use crate::model::DomainRef;

/// The agent of one domain.
pub struct GuestAgent<'a> {
    pub hypervisor: &'a dyn Agents,
    pub domain: &'a DomainRef,
}

impl Agent for GuestAgent<'_> {
    fn command(&self, request: &Value) -> Result<Value, Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.hypervisor.agent(self.domain, request)?)
    }
}
