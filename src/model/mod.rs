//! The values that all other modules share, with their invariants: domains, disks, extents, restore points, outcomes,
//! reports. Must not do any I/O, or know libvirt, YAML, tar or terminals.

mod address;
mod bucket;
mod clock;
pub mod command;
mod digest;
mod disk;
mod domain;
mod extent;
mod hook;
mod listen;
mod outcome;
mod owner;
mod point;
mod report;
mod result;
mod sample;
pub mod size;
mod text;
mod uri;
pub mod version;
pub(crate) mod words;

pub use address::{BadRepositoryAddress, RepositoryAddress};
pub use bucket::{BadBucketUrl, BucketUrl};
pub use clock::is_future;
pub use digest::{Digest, Hasher};
pub use disk::{Device, Disk, Format, Image, Source};
pub use domain::{BootFile, Domain, DomainRef, DomainState, DomainXml, NotSaved, Nvram};
pub use extent::Extent;
pub use hook::{HookResult, HookStatus, Phase, Span};
pub use listen::{BadListen, Listen};
pub use outcome::{
    Consistency, DiskOutcome, DomainOutcome, Failure, FailureReason, Method, Outcome, SkippedDisk, WholeRead,
};
pub use owner::Owner;
pub use point::{Codec, NewId, PointId, StoreKind};
pub use report::{DamagedPoint, RunReport, Totals};
pub use result::{EXIT_STATUS, RunResult, Status};
pub use sample::Sample;
pub use text::{is_plain, misleads, printable};
pub use uri::is_local;
