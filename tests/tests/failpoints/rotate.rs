//! Ends while the admin login of a target gets another password.

use keystead_core::fail_points::Step;
use keystead_tests::{peers, until};

use crate::world::{ROLE, World};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_that_was_cut_off_locks_nobody_out_and_comes_to_its_end() {
    let mut world = World::start().await;
    let mut rotated = None;
    for step in [Step::RotatePending, Step::RotateTaken, Step::RotateAdopted] {
        world.arm(step).await;
        let cut_off = world.operator().credentials().rotate_target_login("shop-db").await;
        assert!(cut_off.is_err(), "{step:?} was answered");
        world.recover(step).await;
        let operator = world.operator();
        // Whichever password the database takes now: the vault comes to know.
        let issued = until("a login is issued", || async {
            match operator.credentials().issue(ROLE).await {
                Ok(issued) => Some(issued),
                Err(error) => {
                    assert_eq!(error.reason(), "TARGET_UNAVAILABLE", "{step:?}: {error}");
                    None
                }
            }
        })
        .await;
        world.shop.login(&issued).await.unwrap();
        until("the rotation has come to its end", || async {
            let now = operator.credentials().target("shop-db").await.unwrap().rotate_time;
            (now != rotated).then_some(())
        })
        .await;
        rotated = operator.credentials().target("shop-db").await.unwrap().rotate_time;
        let first =
            world.shop.server.login(peers::ADMIN, peers::ADMIN_PASSWORD.as_bytes(), peers::DATABASE).await;
        assert!(first.is_err(), "{step:?}: the first password still works");
        operator.leases().revoke(&issued.lease.id).await.unwrap();
        assert_eq!(world.settled().await.len(), 0, "{step:?}");
    }
    // Nothing of it is left that the next one trips over.
    world.operator().credentials().rotate_target_login("shop-db").await.unwrap();
    world.operator().credentials().check_target("shop-db").await.unwrap();
}
