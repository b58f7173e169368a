//! The list of clients (peers), the limits on their number and unsent bytes, and the choice of the peer to close at a limit.
//! It must not know requests.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use tokio::task::{JoinHandle, yield_now};
use tokio::time::{Instant, sleep_until};

/// Maximum number of peers; less if this is more than half of the file descriptors that the process may have.
const MOST: usize = 256;
/// Maximum total size of responses that wait for slow peers, in bytes.
const PENDING: usize = 16 << 20;
/// Time that a peer has to send its request before it may be closed for a new peer.
const GRACE: Duration = Duration::from_millis(50);

/// Unsent bytes of the response; `None` while the peer is idle, before its request.
pub(super) type Load = Rc<Cell<Option<usize>>>;

/// All peers, oldest first.
#[derive(Default)]
pub(super) struct Crowd(RefCell<Vec<Peer>>);

struct Peer {
    task: JoinHandle<()>,
    since: Instant,
    load: Load,
}

impl Crowd {
    /// Adds a peer that this task serves.
    pub fn admit(&self, task: JoinHandle<()>, load: Load) {
        self.0.borrow_mut().push(Peer { task, since: Instant::now(), load });
    }

    /// Waits until one more peer may be accepted. If all places are taken, this waits until the peer to close has had time to send
    /// its request. Otherwise peers that only connect would close each connection before its request arrives.
    pub async fn make_room(&self) {
        while let Some(leaves) = self.place_opens() {
            if leaves > Instant::now() {
                sleep_until(leaves).await;
            } else {
                self.close_oldest();
                yield_now().await;
            }
        }
    }

    /// When the oldest peer may be closed for a new one; `None` while a place is free.
    fn place_opens(&self) -> Option<Instant> {
        let mut peers = self.0.borrow_mut();
        peers.retain(|peer| !peer.task.is_finished());
        let is_full = peers.len() >= most();
        oldest(&peers).filter(|_| is_full).map(|oldest| oldest.since + GRACE)
    }

    /// Marks the oldest peer to be closed when its task runs again. Returns false if there is none.
    pub fn close_oldest(&self) -> bool {
        let mut peers = self.0.borrow_mut();
        peers.retain(|peer| !peer.task.is_finished());
        oldest(&peers).inspect(|oldest| oldest.task.abort()).is_some()
    }

    /// Sets the unsent bytes of a peer. While the total is too large, the oldest other peers are closed.
    pub fn carry(&self, load: &Load, bytes: usize) {
        load.set(Some(bytes));
        let mut peers = self.0.borrow_mut();
        peers.retain(|peer| !peer.task.is_finished());
        let mut pending: usize = peers.iter().filter_map(|peer| peer.load.get()).sum();
        for peer in peers.iter().filter(|peer| !Rc::ptr_eq(&peer.load, load)) {
            let carried = peer.load.get().unwrap_or(0);
            if pending > PENDING && carried > 0 {
                pending -= carried;
                peer.task.abort();
            }
        }
    }
}

/// The peer to close: the oldest idle one, otherwise the oldest.
fn oldest(peers: &[Peer]) -> Option<&Peer> {
    peers.iter().find(|peer| peer.load.get().is_none()).or(peers.first())
}

/// The maximum number of peers. Other parts of this process need descriptors too.
fn most() -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(limit / 2).unwrap_or(MOST).clamp(1, MOST)
}

#[cfg(test)]
mod tests {
    use tokio::runtime::Builder;
    use tokio::task::{LocalSet, spawn_local};

    use super::*;

    /// The remaining peers after an action; each is idle or has unsent bytes.
    fn left(loads: &[Option<usize>], act: impl FnOnce(&Crowd, &[Load])) -> Vec<usize> {
        let runtime = Builder::new_current_thread().enable_time().build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            let crowd = Crowd::default();
            let loads: Vec<Load> = loads.iter().map(|load| Rc::new(Cell::new(*load))).collect();
            loads.iter().for_each(|load| crowd.admit(spawn_local(std::future::pending()), Rc::clone(load)));
            act(&crowd, &loads);
            yield_now().await;
            let peers = crowd.0.borrow();
            (0..loads.len())
                .filter(|at| peers.iter().any(|peer| Rc::ptr_eq(&peer.load, &loads[*at]) && !peer.task.is_finished()))
                .collect()
        })
    }

    #[test]
    fn idle_peers_are_closed_before_busy_ones_oldest_first() {
        let close = |crowd: &Crowd, _: &[Load]| assert!(crowd.close_oldest());
        assert_eq!(left(&[Some(9), None, None], close), [0, 2]);
        assert_eq!(left(&[Some(9), Some(0)], close), [1]);
        assert_eq!(left(&[], |crowd, _| assert!(!crowd.close_oldest())), [0; 0]);
    }

    #[test]
    fn too_many_unsent_bytes_close_the_oldest_peers_with_unsent_bytes() {
        let carry = |bytes| move |crowd: &Crowd, loads: &[Load]| crowd.carry(&loads[4], bytes);
        let loads = [None, Some(PENDING / 2), Some(0), Some(PENDING / 2), Some(0)];
        assert_eq!(left(&loads, carry(0)), [0, 1, 2, 3, 4]);
        assert_eq!(left(&loads, carry(1)), [0, 2, 3, 4]);
        assert_eq!(
            left(&loads, carry(2 * PENDING)),
            [0, 2, 4],
            "the newest request gets its response regardless of its size"
        );
    }
}
