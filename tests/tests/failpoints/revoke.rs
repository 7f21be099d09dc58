//! Ends while a login is removed.

use std::collections::BTreeSet;

use keystead_client::LeaseState;
use keystead_core::fail_points::Step;

use crate::world::{ROLE, World};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_that_was_cut_off_goes_on_until_the_login_is_gone() {
    let mut world = World::start().await;
    for step in [Step::RevokeAsked, Step::RevokeBegun, Step::RevokeRemoved, Step::RevokeClosed] {
        let issued = world.operator().credentials().issue(ROLE).await.unwrap();
        world.arm(step).await;
        let (operator, id) = (world.operator(), issued.lease.id.clone());
        // The vault takes the wish before it goes on by itself, so an answer may be there.
        let answered = operator.leases().revoke(&id).await;
        assert!(step != Step::RevokeAsked || answered.is_err(), "{step:?} was answered");
        world.recover(step).await;
        assert_eq!(world.settled().await, BTreeSet::new(), "{step:?}");
        assert_eq!(world.operator().leases().get(&id).await.unwrap().state, LeaseState::Revoked, "{step:?}");
        assert!(world.shop.login(&issued).await.is_err(), "{step:?}: the login still works");
    }
}
