//! Why the writer could not write or sync, and how its callers are told.
//!
//! Invariant: no room is told from a broken device, since the one passes. Absent: what is done about it (`writer`).

use crate::error::AuditError;
use crate::files::is_no_space;
use std::io;
use std::sync::Arc;

/// Why a step did not work.
#[derive(Debug, Clone)]
pub(crate) enum Failure {
    Write(Arc<io::Error>),
    Sync(Arc<io::Error>),
}

impl Failure {
    pub(crate) fn is_no_space(&self) -> bool {
        let (Self::Write(error) | Self::Sync(error)) = self;
        is_no_space(error)
    }

    pub(crate) fn to_error(&self) -> AuditError {
        match self {
            Self::Write(error) => AuditError::Write(Arc::clone(error)),
            Self::Sync(error) => AuditError::Sync(Arc::clone(error)),
        }
    }
}

pub(crate) fn write_failed(error: io::Error) -> Failure {
    Failure::Write(Arc::new(error))
}

pub(crate) fn sync_failed(error: io::Error) -> Failure {
    Failure::Sync(Arc::new(error))
}
