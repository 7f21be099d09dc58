//! Where the programs under test are. Invariant: a missing one fails the test and says how to build it.

use std::path::PathBuf;

/// `keystead-server`; it is the HSM's process too.
pub fn server() -> PathBuf {
    program("KEYSTEAD_TEST_SERVER", "keystead-server", "keystead-server")
}

/// `keystead-server`, built with fail points.
pub fn server_with_fail_points() -> PathBuf {
    program(
        "KEYSTEAD_TEST_SERVER_FAILPOINTS",
        "keystead-server-failpoints",
        "keystead-server --features failpoints",
    )
}

/// `keystead`.
pub fn cli() -> PathBuf {
    program("KEYSTEAD_TEST_CLI", "keystead", "keystead-cli")
}

fn program(variable: &str, name: &str, package: &str) -> PathBuf {
    let found = match std::env::var_os(variable) {
        Some(path) => PathBuf::from(path),
        None => {
            // A program of ours lies beside it, a test one directory deeper.
            let own = std::env::current_exe().unwrap();
            let mut places = own.ancestors().skip(1).take(2).map(|directory| directory.join(name));
            places.find(|path| path.is_file()).unwrap_or_else(|| own.with_file_name(name))
        }
    };
    assert!(
        found.is_absolute() && found.is_file(),
        "{} is no program: run the tests with `cargo xtask test`, or build it with `cargo build -p {package}` or name it \
         in {variable}",
        found.display()
    );
    found
}
