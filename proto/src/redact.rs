//! What stands in `Debug` output in the place of a field marked `debug_redact`.
//!
//! The implementations of `Debug` that use it are generated into `gen/redact.rs` from the descriptor set, one for each
//! message and oneof with such a field; `tests/redaction.rs` plants a canary in each. Not even a length is shown.

use std::fmt;

/// Prints as `[redacted]`.
pub(crate) struct Redacted;

impl fmt::Debug for Redacted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}
