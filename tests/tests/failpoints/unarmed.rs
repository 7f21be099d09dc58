//! What is shipped has no fail points, and each fail point has its test.

use std::fs;

use keystead_core::fail_points::Step;
use keystead_tests::peers::Shop;
use keystead_tests::{ServerProcess, until};

use crate::world::ROLE;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_built_as_usual_does_not_listen_to_fail_points() {
    let armed: Vec<String> = Step::ALL.iter().map(|step| format!("{}=return", step.name())).collect();
    let mut server = ServerProcess::prepare(&[]);
    server.set_variable("FAILPOINTS", Some(&armed.join(";")));
    server.start_again().await;
    server.init().await;
    server.unseal().await;
    let operator = server.operator();
    let shop = Shop::start(&operator).await;
    shop.add_to(&operator).await;
    let issued = operator.credentials().issue(ROLE).await.unwrap();
    operator.credentials().rotate_target_login("shop-db").await.unwrap();
    operator.leases().revoke(&issued.lease.id).await.unwrap();
    until("the login is gone", || async { shop.logins().await.is_empty().then_some(()) }).await;
    assert!(server.terminate().await.success());
}

#[test]
fn every_fail_point_ends_a_server_in_a_test() {
    let here =
        std::path::Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("tests/failpoints");
    let tests: String = ["issue.rs", "revoke.rs", "rotate.rs"]
        .map(|file| fs::read_to_string(here.join(file)).unwrap())
        .concat();
    for step in Step::ALL {
        assert!(tests.contains(&format!("Step::{step:?}")), "{step:?} is in no test");
    }
}
