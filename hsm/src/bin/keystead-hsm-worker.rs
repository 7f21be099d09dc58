//! The child process by itself, for this crate's tests. Invariant: it does what `keystead-server hsm-worker` does.
//! Absent: arguments; everything comes over standard input, which is a socket.

use std::process::ExitCode;

fn main() -> ExitCode {
    keystead_hsm::worker_main()
}
