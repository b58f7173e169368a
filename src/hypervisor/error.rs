//! Owns: how a hypervisor fails, told apart as far as the engine acts on it. Must not: print.

use super::domain_xml;

/// What kind of failure it is, where the engine has to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// No connection to libvirt.
    Unreachable,
    /// libvirt knows no such domain.
    NoDomain,
    /// There is no agent to ask: nothing was done in the guest.
    NoAgent,
    /// A block job is not ready to be ended yet.
    NotReady,
    /// Another job holds the domain.
    Busy,
    /// QEMU has not activated the images of a guest that has been paused since it was restored or migrated.
    Inactive,
    /// libvirt is another host's.
    Remote,
    /// The guest agent answered, and did not do what it was asked.
    Refused,
    /// Anything else.
    Other,
}

/// Characters that are kept of what libvirt or a guest agent says: whatever a guest answers stands in reports and mail.
const MOST: usize = 500;

/// What libvirt said, in its own words and nothing else: the numbers of its codes are for programs. A guest may have made the
/// words: the start of them is kept.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Said(String);

impl From<virt::error::Error> for Said {
    fn from(error: virt::error::Error) -> Said {
        Said(bounded(error.message()))
    }
}

/// The start of a text that somebody else made.
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
        /// The address asked.
        uri: String,
        /// What libvirt says.
        source: Said,
    },
    /// libvirt manages the guests of another host, whose images this program cannot open.
    #[error("{uri} is, or may be, the libvirt of another host; its images cannot be read from here")]
    Remote {
        /// Its address.
        uri: String,
    },
    /// libvirt refused or failed.
    #[error("{domain}: cannot {action}")]
    Call {
        /// The domain, or what else the call was about.
        domain: String,
        /// What was asked, as a verb phrase.
        action: String,
        /// Its kind.
        kind: Kind,
        /// What libvirt says.
        source: Said,
    },
    /// This host did not get as far as to ask libvirt, or to hear its answer.
    #[error("{domain}: hypervisor not queried")]
    Host {
        /// The domain.
        domain: String,
        /// Why.
        source: std::io::Error,
    },
    /// The domain XML is not what libvirt writes.
    #[error("{domain}: cannot read the domain XML")]
    Xml {
        /// The domain.
        domain: String,
        /// What is wrong with it.
        source: domain_xml::Error,
    },
    /// The guest agent answered with something else than asked for.
    #[error("{domain}: the guest agent refused: {answer}")]
    Agent {
        /// The domain.
        domain: String,
        /// The answer, shortened.
        answer: String,
    },
}

impl Error {
    /// What kind of failure it is.
    pub fn kind(&self) -> Kind {
        match self {
            Error::Connect { .. } => Kind::Unreachable,
            Error::Remote { .. } => Kind::Remote,
            Error::Call { kind, .. } => *kind,
            Error::Agent { .. } => Kind::Refused,
            Error::Host { .. } | Error::Xml { .. } => Kind::Other,
        }
    }

    /// What the operator can do.
    pub fn hint(&self) -> Option<String> {
        let hint = match self.kind() {
            Kind::Unreachable => "Check that libvirtd is running and that this user may connect: virsh -c URI list",
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
    fn what_a_guest_says_is_kept_in_part() {
        assert_eq!(bounded("said"), "said");
        assert_eq!(bounded(&"ü".repeat(MOST)), "ü".repeat(MOST));
        assert_eq!(bounded(&"ü".repeat(3_000_000)), "ü".repeat(MOST) + "…");
        let answer = bounded(&"x".repeat(3_000_000));
        let error = Error::Agent { domain: "web".to_owned(), answer };
        assert!(error.to_string().len() < 600);
    }

    #[test]
    fn what_libvirt_says_is_kept_in_part() {
        virt::error::clear_error_callback();
        // Its driver for tests names the file that is not there.
        let uri = format!("test:///{}", "x".repeat(1000));
        let said = virt::connect::Connect::open(Some(&uri)).err().unwrap();
        assert!(said.message().len() > 1000, "{said}");
        assert!(Said::from(said).to_string().chars().count() == MOST + 1);
    }
}
