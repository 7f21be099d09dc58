//! gRPC status → [`Error`]: the one place. The reason of google.rpc.ErrorInfo decides, then the code.
//!
//! A status that was made on this side (no connection, a broken stream, a timeout) is told apart from one that the
//! server sent: only the latter becomes a refusal.

use std::error::Error as _;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::address::Address;
use crate::connect::{self, LastAlert};
use crate::error::{Error, FieldViolation, Precondition, Refusal};

const DOMAIN: &str = "keystead";
/// What tonic says when its own timer ends a call.
const TONIC_TIMEOUT: &str = "Timeout expired";

pub(crate) fn error(status: Status, address: &Address, after: Duration, last_alert: &LastAlert) -> Error {
    // Both sides end a call at its deadline: whichever is first names it.
    let timed_out_here = status.code() == Code::Cancelled && status.message() == TONIC_TIMEOUT;
    if status.code() == Code::DeadlineExceeded || timed_out_here {
        return Error::DeadlineExceeded { after };
    }
    if let Some(source) = status.source() {
        let cause = connect::cause(source, last_alert);
        return Error::Connect { address: address.clone(), cause, source: Box::new(status) };
    }
    let refusal = Box::new(refusal(&status));
    match (refusal.reason.as_str(), refusal.code) {
        ("SEALED", _) => Error::Sealed(refusal),
        ("NEEDS_APPROVAL", _) => Error::NeedsApproval(refusal),
        (_, Code::PermissionDenied | Code::NotFound) => Error::NotFoundOrDenied(refusal),
        (_, Code::Unauthenticated) => Error::Unauthenticated(refusal),
        ("VERSION_MISMATCH" | "ETAG_MISMATCH" | "REQUEST_ID_REUSED", _)
        | (_, Code::Aborted | Code::AlreadyExists) => Error::Conflict(refusal),
        (_, Code::InvalidArgument | Code::OutOfRange) => Error::InvalidArgument(refusal),
        (_, Code::FailedPrecondition) => Error::Precondition(refusal),
        (_, Code::ResourceExhausted) => Error::LimitExceeded { retry_after: refusal.retry_after, refusal },
        (_, Code::Unavailable) => Error::Unavailable { retry_after: refusal.retry_after, refusal },
        _ => Error::Server(refusal),
    }
}

fn refusal(status: &Status) -> Refusal {
    let details = status.get_error_details();
    let info = details.error_info().filter(|info| info.domain == DOMAIN);
    Refusal {
        code: status.code(),
        reason: info.map(|info| info.reason.clone()).unwrap_or_default(),
        message: status.message().to_owned(),
        metadata: info.map(|info| info.metadata.clone().into_iter().collect()).unwrap_or_default(),
        fields: details
            .bad_request()
            .map(|bad| {
                bad.field_violations
                    .iter()
                    .map(|found| FieldViolation {
                        field: found.field.clone(),
                        description: found.description.clone(),
                    })
                    .collect()
            })
            .unwrap_or_default(),
        preconditions: details
            .precondition_failure()
            .map(|failure| {
                failure
                    .violations
                    .iter()
                    .map(|found| Precondition {
                        kind: found.r#type.clone(),
                        subject: found.subject.clone(),
                        description: found.description.clone(),
                    })
                    .collect()
            })
            .unwrap_or_default(),
        retry_after: details.retry_info().and_then(|info| info.retry_delay),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::ErrorDetails;

    use super::*;

    fn of(code: Code, reason: &str, more: impl FnOnce(&mut ErrorDetails)) -> Error {
        let mut details = ErrorDetails::new();
        details.set_error_info(reason, DOMAIN, HashMap::from([("vault".to_owned(), "ab".to_owned())]));
        more(&mut details);
        mapped(Status::with_error_details(code, "why", details))
    }

    fn mapped(status: Status) -> Error {
        error(status, &Address::Unix("/x".into()), Duration::from_secs(10), &LastAlert::default())
    }

    #[test]
    fn each_status_becomes_its_variant_with_the_reason() {
        type Is = fn(&Error) -> bool;
        let rows: [(Code, &str, Is); 14] = [
            (Code::FailedPrecondition, "SEALED", |e| matches!(e, Error::Sealed(_))),
            (Code::Unavailable, "SEALED", |e| matches!(e, Error::Sealed(_))),
            (Code::PermissionDenied, "DENIED", |e| matches!(e, Error::NotFoundOrDenied(_))),
            (Code::NotFound, "NOT_FOUND", |e| matches!(e, Error::NotFoundOrDenied(_))),
            (Code::PermissionDenied, "NEEDS_APPROVAL", |e| matches!(e, Error::NeedsApproval(_))),
            (Code::Unauthenticated, "UNAUTHENTICATED", |e| matches!(e, Error::Unauthenticated(_))),
            (Code::FailedPrecondition, "VERSION_MISMATCH", |e| matches!(e, Error::Conflict(_))),
            (Code::Aborted, "CONFLICT", |e| matches!(e, Error::Conflict(_))),
            (Code::AlreadyExists, "ALREADY_INITIALIZED", |e| matches!(e, Error::Conflict(_))),
            (Code::InvalidArgument, "INVALID_ARGUMENT", |e| matches!(e, Error::InvalidArgument(_))),
            (Code::FailedPrecondition, "NOT_INITIALIZED", |e| matches!(e, Error::Precondition(_))),
            (Code::ResourceExhausted, "LIMIT", |e| matches!(e, Error::LimitExceeded { .. })),
            (Code::Unavailable, "HSM_UNAVAILABLE", |e| matches!(e, Error::Unavailable { .. })),
            (Code::Internal, "RECORD_CORRUPT", |e| matches!(e, Error::Server(_))),
        ];
        for (code, reason, is) in rows {
            let error = of(code, reason, |_| ());
            assert!(is(&error), "{code:?} {reason}: {error:?}");
            assert_eq!(error.reason(), reason);
            assert_eq!(error.to_string(), "why");
            assert_eq!(error.refusal().unwrap().metadata.get("vault").unwrap(), "ab");
        }
    }

    #[test]
    fn what_may_pass_is_what_the_same_call_may_meet_no_more() {
        let rows = [
            (Code::Aborted, "CONFLICT", true),
            (Code::Aborted, "CONTENTION", true),
            (Code::Aborted, "ETAG_MISMATCH", false),
            (Code::AlreadyExists, "REQUEST_ID_REUSED", false),
            (Code::ResourceExhausted, "LEASE_LIMIT", true),
            (Code::ResourceExhausted, "STORAGE_FULL", true),
            (Code::ResourceExhausted, "LIMIT", false),
            (Code::FailedPrecondition, "CLOCK_IN_DOUBT", true),
            (Code::FailedPrecondition, "LEASE_AT_ITS_LONGEST", false),
            (Code::FailedPrecondition, "SEALED", true),
            (Code::Unavailable, "TARGET_UNAVAILABLE", true),
            (Code::Unknown, "OUTCOME_UNRECORDED", true),
            (Code::PermissionDenied, "DENIED", false),
            (Code::Unauthenticated, "UNAUTHENTICATED", false),
        ];
        for (code, reason, passes) in rows {
            assert_eq!(of(code, reason, |_| ()).may_pass(), passes, "{reason}");
        }
    }

    #[test]
    fn details_arrive() {
        let after = Duration::from_millis(2500);
        let error = of(Code::Unavailable, "HSM_UNAVAILABLE", |details| {
            details.set_retry_info(Some(after));
        });
        assert!(matches!(error, Error::Unavailable { retry_after: Some(found), .. } if found == after));

        let error = of(Code::InvalidArgument, "INVALID_ARGUMENT", |details| {
            details.add_bad_request_violation("path", "segment 2 ends with a dot");
        });
        let violation =
            FieldViolation { field: "path".into(), description: "segment 2 ends with a dot".into() };
        assert_eq!(error.refusal().unwrap().fields, [violation]);

        let error = of(Code::FailedPrecondition, "SEALED", |details| {
            details.add_precondition_failure_violation("SEALED", "vault", "operators unseal it");
        });
        let kind = "SEALED".to_owned();
        let held = Precondition { kind, subject: "vault".into(), description: "operators unseal it".into() };
        assert_eq!(error.refusal().unwrap().preconditions, [held]);
    }

    #[test]
    fn a_reason_of_another_domain_is_not_ours() {
        let mut details = ErrorDetails::new();
        details.set_error_info("SEALED", "somebody.else", HashMap::new());
        let error = mapped(Status::with_error_details(Code::FailedPrecondition, "", details));
        assert!(matches!(&error, Error::Precondition(refusal) if refusal.reason.is_empty()));
    }

    #[test]
    fn what_happened_on_this_side_is_no_refusal() {
        let broken = Status::from_error(Box::new(std::io::Error::from(std::io::ErrorKind::BrokenPipe)));
        let error = mapped(broken);
        assert!(matches!(error, Error::Connect { .. }), "{error:?}");
        assert_eq!(error.refusal(), None);
        assert!(matches!(mapped(Status::deadline_exceeded("")), Error::DeadlineExceeded { .. }));
        assert!(matches!(mapped(Status::cancelled("Timeout expired")), Error::DeadlineExceeded { .. }));
    }
}
