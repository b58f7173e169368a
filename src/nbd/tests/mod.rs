//! Tests that the client reads the same data as QEMU, and that no server can harm or block it.

mod fake;
mod hostile;
mod real;

use std::time::Duration;

use super::Error;
use crate::model::Extent;

/// Longer than any healthy server needs, even on a slow machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// For servers that never answer.
const SHORT: Duration = Duration::from_millis(200);

fn extent(offset: u64, length: u64) -> Extent {
    Extent { offset, length }
}
