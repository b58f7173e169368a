//! Waiting for a condition, with a deadline.

use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// For calls of libvirt: generous, because the machine may be slow, and busy with other guests.
pub const DEADLINE: Duration = Duration::from_secs(120);
/// For a guest that starts under software emulation on a busy machine; 6 to 10 s on an idle one.
pub const BOOT_DEADLINE: Duration = Duration::from_secs(300);

const POLL: Duration = Duration::from_millis(100);

/// Waits until `condition` holds. Panics with `what` if it does not within `deadline`.
pub fn wait_until(deadline: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < deadline, "waited {deadline:?} in vain for: {what}");
        sleep(POLL);
    }
}

/// Waits until the current second is over. Restore points are named by their seconds. One that had to take a later
/// second, because its own was taken, does not count for rotation until then.
pub fn next_second() {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is right").as_secs();
    let began = now();
    wait_until(DEADLINE, "the next second", || now() != began);
}
