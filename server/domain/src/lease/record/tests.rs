use proptest::prelude::*;

use super::*;

fn secs(seconds: u64) -> Ttl {
    Ttl::from_secs(seconds).unwrap()
}

fn lease(period: u64, now: u64, max_expires: u64) -> LeaseRecord {
    LeaseRecord::begin(NewLease {
        id: RecordId([1; 16]),
        owner: PrincipalName::parse("service/orders").unwrap(),
        owner_generation: 7,
        session: None,
        role: Name::parse("orders-rw").unwrap(),
        role_id: RecordId([2; 16]),
        target: Name::parse("shop-db").unwrap(),
        target_id: RecordId([3; 16]),
        handle: Handle { name: "ks_x".to_owned(), detail: vec![1] },
        now: UnixMillis(now),
        period: secs(period),
        max_expires: UnixMillis(max_expires),
    })
    .unwrap()
}

fn in_state(state: LeaseState) -> LeaseRecord {
    let mut lease = lease(60, 0, 600_000);
    let now = UnixMillis(1);
    if state != LeaseState::Issuing {
        lease.activate().unwrap();
    }
    if matches!(state, LeaseState::Revoking | LeaseState::Revoked) {
        lease.begin_revoking(Why::Asked, now).unwrap();
    }
    if state == LeaseState::Revoked {
        lease.close(Closed::Confirmed { at: now }).unwrap();
    }
    assert_eq!(lease.state, state);
    lease
}

#[test]
fn a_login_that_is_being_made_is_not_removed_before_it_can_be_there() {
    let mut lease = in_state(LeaseState::Issuing);
    lease.begin_revoking(Why::Asked, UnixMillis(2)).unwrap();
    lease.hurry(UnixMillis(3)).unwrap();
    assert_eq!(lease.due(), UnixMillis(MAKING_AT_MOST));
    lease.failed("away", 30_000, UnixMillis(MAKING_AT_MOST)).unwrap();
    lease.hurry(UnixMillis(MAKING_AT_MOST + 5)).unwrap();
    assert_eq!(lease.due(), UnixMillis(MAKING_AT_MOST + 5), "a pause is cut short");
    lease.hurry(UnixMillis(MAKING_AT_MOST + 9)).unwrap();
    assert_eq!(lease.due(), UnixMillis(MAKING_AT_MOST + 5), "and nothing is put off");
}

#[test]
fn only_the_legal_moves_exist() {
    use LeaseState::{Active, Issuing, Revoked, Revoking};
    type Go = fn(&mut LeaseRecord, UnixMillis) -> Result<(), LeaseError>;
    let now = UnixMillis(2);
    let legal = [
        (Issuing, Active),
        (Issuing, Revoking),
        (Active, Revoking),
        (Revoking, Revoking),
        (Revoking, Revoked),
    ];
    for from in LeaseState::ALL {
        let moves: [(LeaseState, Go); 3] = [
            (Active, |lease, _| lease.activate()),
            (Revoking, |lease, now| lease.begin_revoking(Why::Expired, now)),
            (Revoked, |lease, now| lease.close(Closed::Confirmed { at: now })),
        ];
        for (to, go) in moves {
            let mut lease = in_state(from);
            let before = lease.clone();
            match go(&mut lease, now) {
                Ok(()) => assert!(legal.contains(&(from, to)) && lease.state == to, "{from} {to}"),
                Err(error) => {
                    assert!(!legal.contains(&(from, to)), "{from} {to}");
                    assert_eq!(error, LeaseError::IllegalMove { from, to });
                    assert_eq!(lease, before);
                }
            }
        }
        let mut lease = in_state(from);
        assert_eq!(lease.failed("no", 5, now).is_ok(), from == Revoking);
        assert_eq!(in_state(from).try_at(now).is_ok(), from == Revoking);
        assert_eq!(in_state(from).hurry(now).is_ok(), from == Revoking);
        assert_eq!(in_state(from).renew(None, now).is_ok(), from == Active);
    }
}

#[test]
fn a_revocation_that_is_under_way_keeps_its_reason_and_its_tries() {
    let mut lease = in_state(LeaseState::Active);
    lease.begin_revoking(Why::Expired, UnixMillis(5)).unwrap();
    lease.failed("the target is away", 1_000, UnixMillis(10)).unwrap();
    lease.begin_revoking(Why::Asked, UnixMillis(20)).unwrap();
    let ending = lease.ending.clone().unwrap();
    assert_eq!((ending.why, ending.failures, ending.next_try), (Why::Expired, 1, UnixMillis(1_010)));
    assert_eq!(lease.due(), UnixMillis(1_010));
    lease.try_at(UnixMillis(30)).unwrap();
    assert_eq!(lease.due(), UnixMillis(30));
}

#[test]
fn an_error_is_cut_between_characters() {
    let mut lease = in_state(LeaseState::Revoking);
    lease.failed(&"é".repeat(400), 1, UnixMillis(1)).unwrap();
    assert_eq!(lease.ending.unwrap().last_error.unwrap().len(), 300);
}

#[test]
fn a_lease_at_its_longest_says_so_instead_of_pretending_to_renew() {
    let mut lease = lease(60, 0, 90_000);
    lease.activate().unwrap();
    assert_eq!(lease.renew(None, UnixMillis(40_000)), Ok(UnixMillis(90_000)));
    let until = UnixMillis(90_000);
    assert_eq!(lease.renew(None, UnixMillis(50_000)), Err(LeaseError::AtItsLongest { until }));
    assert_eq!(lease.renew(None, UnixMillis(90_000)), Err(LeaseError::Over));
}

#[test]
fn each_state_is_looked_at_when_it_is_due() {
    assert_eq!(lease(60, 5, 600_000).due(), UnixMillis(5 + MAKING_AT_MOST));
    assert_eq!(in_state(LeaseState::Active).due(), UnixMillis(60_000));
    assert_eq!(in_state(LeaseState::Revoking).due(), UnixMillis(1));
    assert_eq!(in_state(LeaseState::Revoked).due(), UnixMillis(1 + KEPT_AFTER_END));
}

proptest! {
    #[test]
    fn no_renewal_lengthens_a_life_beyond_its_longest(
        period in 1_u64..100_000, longest in 1_u64..200_000, steps in prop::collection::vec((0_u64..50_000, 1_u64..300_000), 0..12),
    ) {
        let max_expires = longest * 1000;
        let mut lease = lease(period, 0, max_expires);
        lease.activate().unwrap();
        let mut now = 0;
        for (passed, asked) in steps {
            now += passed * 1000;
            if let Ok(until) = lease.renew(Some(secs(asked)), UnixMillis(now)) {
                prop_assert!(until.0 > now && until.0 <= max_expires);
                prop_assert!(until.0 - now <= asked * 1000);
            }
            prop_assert!(lease.expires.0 <= max_expires);
        }
    }

    #[test]
    fn a_lease_is_what_was_stored(period in 1_u64..1_000, now in 0_u64..1_000) {
        let lease = lease(period, now, 10_000_000);
        let stored = postcard::to_stdvec(&lease).unwrap();
        prop_assert_eq!(postcard::from_bytes::<LeaseRecord>(&stored).unwrap(), lease);
    }
}
