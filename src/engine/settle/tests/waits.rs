//! Tests which failures are waited for, which are retried, and which are not.

use super::*;

#[test]
fn only_transient_failures_are_waited_for() {
    for (kind, time) in [(Kind::Busy, CALLS_OF_OTHERS), (Kind::Unreachable, RESTART), (Kind::Other, Duration::ZERO)] {
        assert_eq!(patience(&fake::failure(kind).into()), time, "{kind:?}");
    }
    assert_eq!(patience(&Error::Changed { what: String::new() }), Duration::ZERO);
}

#[test]
fn busy_domain_and_restarting_libvirt_are_retried() {
    let mut bench = Bench::new(DomainState::Running, true);
    bench.fake.when(|call, number, _| match (call, number) {
        ("describe", 1) => Some(Kind::Unreachable),
        ("start_commit", 1) => Some(Kind::Busy),
        _ => None,
    });
    bench.settle().unwrap();
    assert!(!bench.overlay.path.exists());
}

#[test]
fn guest_turned_off_during_the_commit_is_committed_as_off() {
    let mut bench = Bench::new(DomainState::Running, true);
    bench.fake.when(|call, _, guest| {
        let ends = call == "block_job" && guest.job.is_some();
        if ends {
            (guest.state, guest.job) = (DomainState::Off, None);
        }
        ends.then_some(Kind::Other)
    });
    bench.settle().unwrap();
    assert!(bench.is_in_base() && !bench.overlay.path.exists());
}

#[test]
fn domain_that_keeps_changing_its_state_is_abandoned() {
    let mut bench = Bench::new(DomainState::Running, true);
    bench.fake.when(|call, _, guest| {
        if ["block_job", "off_kind"].contains(&call) {
            guest.state = if guest.state.is_active() { DomainState::Off } else { DomainState::Running };
        }
        ["block_job", "off_kind"].contains(&call).then_some(Kind::Other)
    });
    bench.refused();
    let tries = bench.fake.calls().iter().filter(|call| ["block_job", "off_kind"].contains(&call.as_str())).count();
    assert_eq!(tries, ATTEMPTS);
}

#[test]
fn pending_libvirt_call_is_waited_for() {
    let asked = |state, busy: usize, pull: bool| {
        let fake = Fake::new(state, "vda", &[Path::new("/v/base")]);
        fake.set(|guest| guest.pull = pull.then(|| "/v/sock".into()));
        fake.when(move |call, number, guest| {
            guest.busy = call == "job" && number <= busy;
            None
        });
        wait_for_calls(&fake, &fake::id());
        fake.calls().iter().filter(|call| *call == "job").count()
    };
    assert_eq!(asked(DomainState::Running, 2, false), 3);
    assert_eq!(asked(DomainState::Paused, 0, false), 1);
    // A backup job itself makes the domain busy. A domain that is off has no jobs.
    assert_eq!(asked(DomainState::Running, 2, true), 1);
    assert_eq!(asked(DomainState::Off, 2, false), 0);
}
