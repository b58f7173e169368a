//! Errors of a hypervisor, with the kinds that the engine distinguishes. Must not print.

use super::domain_xml;

/// The kinds of failure that the engine distinguishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// No connection to libvirt.
    Unreachable,
    /// The domain does not exist.
    NoDomain,
    /// The guest has no agent: nothing was done in the guest.
    NoAgent,
    /// A block job is not ready for the pivot yet.
    NotReady,
    /// Another job runs on the domain.
    Busy,
    /// QEMU has not activated the images of a guest that has been paused since it was restored or migrated.
    Inactive,
    /// libvirt manages another host.
    Remote,
    /// The guest agent answered with an error.
    Refused,
    /// Anything else.
    Other,
}

/// The longest message of libvirt or a guest agent that is kept, in characters: a guest's answers appear in reports and emails.
const MOST: usize = 500;

/// A message of libvirt without its error numbers, shortened because a guest may have written a part of it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Said(String);

impl From<virt::error::Error> for Said {
    fn from(error: virt::error::Error) -> Said {
        Said(bounded(error.message()))
    }
}

/// At most [`MOST`] characters of a foreign text.
pub(super) fn bounded(text: &str) -> String {
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// A call to the hypervisor failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// libvirt cannot be reached.
    #[error("cannot connect to libvirt at {uri}")]
    Connect {
        /// The connection URI.
        uri: String,
        /// The message of libvirt.
        source: Said,
    },
    /// libvirt manages the guests of another host, whose images cannot be opened here.
    #[error("{uri} is, or may be, the libvirt of another host; its images cannot be read from here")]
    Remote {
        /// The connection URI.
        uri: String,
    },
    /// A call to libvirt failed.
    #[error("{domain}: cannot {action}")]
    Call {
        /// The name of the domain, or another subject of the call.
        domain: String,
        /// What was tried, as a verb phrase.
        action: String,
        /// What the engine needs to know about the error.
        kind: Kind,
        /// The message of libvirt.
        source: Said,
    },
    /// An error of this host before or after the call.
    #[error("{domain}: hypervisor not queried")]
    Host {
        /// The name of the domain.
        domain: String,
        /// The error of the system.
        source: std::io::Error,
    },
    /// The domain XML is not what libvirt writes.
    #[error("{domain}: cannot read the domain XML")]
    Xml {
        /// The name of the domain.
        domain: String,
        /// What is wrong with the XML.
        source: domain_xml::Error,
    },
    /// The guest agent did not do what it was asked, or answered something unexpected.
    #[error("{domain}: the guest agent refused: {answer}")]
    Agent {
        /// The name of the domain.
        domain: String,
        /// The answer, shortened.
        answer: String,
    },
    /// QEMU answered a command of its monitor with an error.
    #[error("{domain}: QEMU refused: {answer}")]
    Monitor {
        /// The name of the domain.
        domain: String,
        /// The answer, shortened.
        answer: String,
    },
}

impl Error {
    /// The kind of failure.
    pub fn kind(&self) -> Kind {
        match self {
            Error::Connect { .. } => Kind::Unreachable,
            Error::Remote { .. } => Kind::Remote,
            Error::Call { kind, .. } => *kind,
            Error::Agent { .. } | Error::Monitor { .. } => Kind::Refused,
            Error::Host { .. } | Error::Xml { .. } => Kind::Other,
        }
    }

    /// What the operator can do.
    pub fn hint(&self) -> Option<String> {
        let hint = match self.kind() {
            Kind::Unreachable => "Check that libvirtd runs and that this user may connect: virsh -c URI list",
            Kind::NoAgent => "Install qemu-guest-agent in the guest, or set `quiesce: never` for this domain.",
            Kind::Busy => {
                "Another job blocks the domain. To see it: virsh domjobinfo DOMAIN; virsh blockjob DOMAIN DISK"
            }
            Kind::NotReady => {
                "A block job is running on one of its disks. To see it: virsh blockjob DOMAIN DISK --info"
            }
            Kind::Inactive => {
                "The guest has been paused since it was restored or migrated, and QEMU activates its images only when \
                 it runs. Resume it: virsh resume DOMAIN"
            }
            Kind::Remote => "Run kvmbackup on that host, with `libvirt_uri: qemu:///system`.",
            Kind::NoDomain | Kind::Refused | Kind::Other => return None,
        };
        Some(hint.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_answers_of_a_guest_are_shortened() {
        assert_eq!(bounded("said"), "said");
        assert_eq!(bounded(&"ü".repeat(MOST)), "ü".repeat(MOST));
        assert_eq!(bounded(&"ü".repeat(3_000_000)), "ü".repeat(MOST) + "…");
        let answer = bounded(&"x".repeat(3_000_000));
        let error = Error::Agent { domain: "web".to_owned(), answer };
        assert!(error.to_string().len() < 600);
    }

    #[test]
    fn long_messages_of_libvirt_are_shortened() {
        virt::error::clear_error_callback();
        // libvirt's test driver names the missing file in its error.
        let uri = format!("test:///{}", "x".repeat(1000));
        let said = virt::connect::Connect::open(Some(&uri)).err().unwrap();
        assert!(said.message().len() > 1000, "{said}");
        assert!(Said::from(said).to_string().chars().count() == MOST + 1);
    }
}
