//! What the process does so that memory leaks nothing: freed heap is wiped, no core is dumped, no file is readable by
//! others. Invariant: hardening goes on after a step that fails, and every such step is reported.
//!
//! Absent on purpose: locking of the whole heap, which an unprivileged process may not do; long-lived keys lie in the
//! crypto crate's locked arena. The allocator is put in place by the program, since a library would force it on every
//! test and load generator that links it.

mod allocator;

use rustix::fs::Mode;
use rustix::process::{DumpableBehavior, Resource, Rlimit};

pub use allocator::WipingAllocator;

/// A step of [`harden`] that the system did not take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HardenWarning {
    /// Other processes of this user can read the memory.
    #[error("the process stays dumpable: another process of the same user can read its memory ({0})")]
    Dumpable(rustix::io::Errno),
    /// A crash may write the memory to disk.
    #[error("core dumps stay on: a crash may write memory to disk ({0})")]
    CoreLimit(rustix::io::Errno),
}

/// Makes the process undumpable, switches core dumps off and sets the umask to 077. To be called before threads start.
pub fn harden() -> Vec<HardenWarning> {
    let mut warnings = Vec::new();
    if let Err(error) = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        warnings.push(HardenWarning::Dumpable(error));
    }
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(error) = rustix::process::setrlimit(Resource::Core, none) {
        warnings.push(HardenWarning::CoreLimit(error));
    }
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    warnings
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn hardened_process_dumps_nothing_and_writes_private_files() {
        assert_eq!(harden(), []);
        assert_eq!(rustix::process::dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
        assert_eq!(rustix::process::getrlimit(Resource::Core).current, Some(0));
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "x").unwrap();
        assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
