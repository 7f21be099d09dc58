//! Runs a test again where it may read the memory of what it starts: as the root of a user namespace of its own, which
//! needs no privilege outside. Invariant: a system that forbids this fails the test and is told what to allow.

use std::future::Future;
use std::process::Command;

const INSIDE: &str = "KEYSTEAD_TEST_INSIDE_NAMESPACE";

/// Runs the body of the test with this full name inside a user namespace.
pub(crate) fn inside(test: &str, body: impl Future<Output = ()>) {
    if std::env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        return runtime.block_on(body);
    }
    drop(body);
    let again = Command::new("unshare")
        .args(["--user", "--map-root-user", "--"])
        .arg(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .expect("unshare of util-linux is needed");
    let said = [String::from_utf8_lossy(&again.stdout), String::from_utf8_lossy(&again.stderr)].concat();
    assert!(
        again.status.success() && said.contains("1 passed"),
        "{test} failed inside a user namespace. If it could not be made: unprivileged processes must be allowed user \
         namespaces (sysctl kernel.apparmor_restrict_unprivileged_userns=0, kernel.unprivileged_userns_clone=1).\n{said}"
    );
}
