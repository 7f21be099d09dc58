//! The one place where an error becomes a gRPC status. Invariant: every status carries an `ErrorInfo` with a reason
//! and the domain `keystead`; texts and fields hold nothing secret, since whoever fills them has none.
//!
//! Absent on purpose: `DebugInfo` (stack traces are for logs) and a status made from text alone.

mod vault;

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, PreconditionViolation, QuotaViolation, StatusExt};

pub use vault::{log_failure, refuse};

/// The domain of every reason.
pub const DOMAIN: &str = "keystead";

/// What a status is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorParts {
    /// The canonical code.
    pub code: Code,
    /// An UPPER_SNAKE_CASE word for programs.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
    /// More for programs, by lower-case name.
    pub metadata: Vec<(&'static str, String)>,
    /// When the same call may be tried again.
    pub retry_after: Option<Duration>,
    /// Fields of the request and what is wrong with each.
    pub fields: Vec<(String, String)>,
    /// Type, subject and description of what must hold first.
    pub preconditions: Vec<(&'static str, String, String)>,
    /// Subject and description of limits that were reached.
    pub quotas: Vec<(String, String)>,
}

impl ErrorParts {
    /// Parts without details.
    pub fn new(code: Code, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            metadata: Vec::new(),
            retry_after: None,
            fields: Vec::new(),
            preconditions: Vec::new(),
            quotas: Vec::new(),
        }
    }

    /// Adds a name and value for programs.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.metadata.push((name, value.into()));
        self
    }

    /// Says when to try again.
    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }

    /// Names a field of the request and what is wrong with it.
    #[must_use]
    pub fn field(mut self, field: impl Into<String>, description: impl Into<String>) -> Self {
        self.fields.push((field.into(), description.into()));
        self
    }

    /// Names something that must hold first.
    #[must_use]
    pub fn precondition(
        mut self,
        kind: &'static str,
        subject: impl Into<String>,
        description: impl Into<String>,
    ) -> Self {
        self.preconditions.push((kind, subject.into(), description.into()));
        self
    }

    /// Names a limit that was reached.
    #[must_use]
    pub fn quota(mut self, subject: impl Into<String>, description: impl Into<String>) -> Self {
        self.quotas.push((subject.into(), description.into()));
        self
    }

    /// The status with its details.
    pub fn into_status(self) -> Status {
        let metadata: HashMap<String, String> =
            self.metadata.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let mut details = ErrorDetails::with_error_info(self.reason, DOMAIN, metadata);
        if self.retry_after.is_some() {
            details.set_retry_info(self.retry_after);
        }
        if !self.fields.is_empty() {
            let violation = |(field, description)| FieldViolation::new(field, description);
            details.set_bad_request(self.fields.into_iter().map(violation).collect::<Vec<_>>());
        }
        if !self.preconditions.is_empty() {
            let violation =
                |(kind, subject, description)| PreconditionViolation::new(kind, subject, description);
            details
                .set_precondition_failure(self.preconditions.into_iter().map(violation).collect::<Vec<_>>());
        }
        if !self.quotas.is_empty() {
            let violation = |(subject, description)| QuotaViolation::new(subject, description);
            details.set_quota_failure(self.quotas.into_iter().map(violation).collect::<Vec<_>>());
        }
        Status::with_error_details(self.code, self.message, details)
    }
}

impl From<ErrorParts> for Status {
    fn from(parts: ErrorParts) -> Self {
        parts.into_status()
    }
}

/// A status with a reason and no further details.
pub fn status(code: Code, reason: &'static str, message: impl Into<String>) -> Status {
    ErrorParts::new(code, reason, message).into_status()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_a_reason_and_the_domain() {
        let details = status(Code::NotFound, "NOT_FOUND", "nothing there").get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("NOT_FOUND", DOMAIN));
        assert!(details.retry_info().is_none() && details.bad_request().is_none());
    }

    #[test]
    fn details_come_out_as_they_went_in() {
        let status = ErrorParts::new(Code::Unavailable, "HSM_UNAVAILABLE", "try later")
            .with("token", "a")
            .retry_after(Duration::from_millis(1500))
            .field("path", "empty")
            .precondition("SEALED", "vault", "unseal it")
            .quota("service/a", "100 leases")
            .into_status();
        assert_eq!((status.code(), status.message()), (Code::Unavailable, "try later"));
        let details = status.get_error_details();
        assert_eq!(details.error_info().unwrap().metadata.get("token").unwrap(), "a");
        assert_eq!(details.retry_info().unwrap().retry_delay, Some(Duration::from_millis(1500)));
        assert_eq!(details.bad_request().unwrap().field_violations[0].field, "path");
        assert_eq!(details.precondition_failure().unwrap().violations[0].r#type, "SEALED");
        assert_eq!(details.quota_failure().unwrap().violations[0].subject, "service/a");
    }
}
