//! Ends while a login is issued, and while the same request is answered once more.

use std::collections::BTreeSet;

use keystead_client::{Credential, Error, IssueOptions, Issued, LeaseState};
use keystead_core::fail_points::Step;

use crate::world::{ROLE, World};

async fn issue(world: &World, request: &str) -> Result<Issued, Error> {
    let options = IssueOptions { request_id: Some(request.to_owned()), ..IssueOptions::default() };
    world.operator().credentials().issue_with(ROLE, options).await
}

fn login(issued: &Issued) -> &str {
    let Credential::Postgres(login) = &issued.credential else { panic!("another kind") };
    &login.username
}

/// The server ends behind this step of an issue; says in which state the next start finds the lease.
async fn end_in_an_issue(world: &mut World, step: Step) -> LeaseState {
    world.arm(step).await;
    let before = world.leases().await.len();
    assert!(issue(world, step.name()).await.is_err(), "{step:?} was answered");
    world.recover(step).await;
    let leases = world.leases().await;
    assert_eq!(leases.len(), before + 1, "{step:?}");
    let made = leases.iter().max_by_key(|lease| lease.issued).unwrap();
    made.state
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_issue_that_was_cut_off_leaves_no_login_and_can_be_asked_for_again() {
    let mut world = World::start().await;
    let cut_off = [Step::IssueLeased, Step::IssueMade];
    for step in cut_off {
        assert_eq!(end_in_an_issue(&mut world, step).await, LeaseState::Issuing);
        // It may still be in the making, for all that the vault knows.
        assert_eq!(issue(&world, step.name()).await.unwrap_err().reason(), "LEASE_BEING_ISSUED");
    }
    assert_eq!(world.shop.logins().await.len(), 1, "only the second came as far as the database");
    assert_eq!(world.settled().await, BTreeSet::new());
    for step in cut_off {
        let issued = issue(&world, step.name()).await.unwrap();
        assert_eq!(issued.lease.reissues, 0, "{step:?}: nobody had this lease");
        world.shop.login(&issued).await.unwrap();
    }
    assert_eq!(world.settled().await.len(), cut_off.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_whose_answer_was_lost_is_had_by_asking_again() {
    let mut world = World::start().await;
    let unanswered = [Step::IssueActive, Step::IssueRecorded];
    for step in unanswered {
        assert_eq!(end_in_an_issue(&mut world, step).await, LeaseState::Active);
        let known = world.settled().await;
        let issued = issue(&world, step.name()).await.unwrap();
        assert!(known.contains(login(&issued)), "{step:?}: another login");
        assert_eq!(issued.lease.reissues, 1);
        world.shop.login(&issued).await.unwrap();
        assert_eq!(world.settled().await, known);
    }
    // The repeated request is cut off as well.
    let request = Step::IssueActive.name();
    for (reissues, step) in [(3, Step::ReissueStored), (5, Step::ReissueMade)] {
        let known = world.settled().await;
        world.arm(step).await;
        assert!(issue(&world, request).await.is_err(), "{step:?} was answered");
        world.recover(step).await;
        let issued = issue(&world, request).await.unwrap();
        assert_eq!(issued.lease.reissues, reissues, "{step:?}");
        world.shop.login(&issued).await.unwrap();
        assert_eq!(world.settled().await, known, "{step:?}");
    }
}
