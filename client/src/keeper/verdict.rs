//! What a failed step means for the next one. Pure.

use std::time::Duration;

use tonic::Code;

use crate::error::Error;

/// Waits after what passes by itself.
const PASSING: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// Waits after a no that somebody has to change.
const REFUSED: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(300));

/// Whether a failure passes by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    Passing,
    Refused,
}

/// What a renewal that failed leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unrenewed {
    /// The lease as it was: ask again.
    Again,
    /// The lease as it was; it will not be renewed.
    AsLong,
    /// No lease.
    Nothing,
}

pub(super) fn failure(error: &Error) -> Failure {
    // The next issue has a request id of its own.
    let other_id = error.reason() == "REQUEST_ID_REUSED";
    if error.may_pass() || other_id { Failure::Passing } else { Failure::Refused }
}

pub(super) fn unrenewed(error: &Error) -> Unrenewed {
    match error {
        _ if is_ended(error) => Unrenewed::Nothing,
        _ if failure(error) == Failure::Passing => Unrenewed::Again,
        Error::NotFoundOrDenied(refusal) if refusal.code == Code::NotFound => Unrenewed::Nothing,
        Error::NotFoundOrDenied(_) | Error::Precondition(_) | Error::InvalidArgument(_) => Unrenewed::AsLong,
        _ => Unrenewed::Again,
    }
}

/// The lease is over: of a renewal, its own; of an issue, the one that the same request made before.
pub(super) fn is_ended(error: &Error) -> bool {
    error.reason() == "LEASE_ENDED"
}

/// Whether the request id of an issue has served: the vault said no, and holds nothing for it.
pub(super) fn is_settled(error: &Error) -> bool {
    is_ended(error)
        || error.reason() == "REQUEST_ID_REUSED"
        || error.refusal().is_some() && failure(error) == Failure::Refused
}

/// How long to wait after the `failures`th failure in a row (from 1), with `left` of the credential's life. What passes is
/// tried again before the end, and no wait is shorter than the vault asks for.
pub(super) fn pause(error: &Error, failures: u32, left: Duration, jitter: f64) -> Duration {
    let kind = failure(error);
    let (first, longest) = match kind {
        Failure::Passing => PASSING,
        Failure::Refused => REFUSED,
    };
    let doubled = first.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
    let jitter = if (0.0..=1.0).contains(&jitter) { jitter } else { 0.5 };
    let mut pause = doubled.min(longest).mul_f64(0.5 + 0.5 * jitter);
    if kind == Failure::Passing && !left.is_zero() {
        pause = pause.min((left / 2).max(first));
    }
    let asked = error.refusal().and_then(|refusal| refusal.retry_after).unwrap_or_default();
    pause.max(asked.min(REFUSED.1))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::error::Refusal;

    const LONG: Duration = Duration::from_secs(86_400);

    fn refusal(code: Code, reason: &str) -> Box<Refusal> {
        Box::new(Refusal {
            code,
            reason: reason.into(),
            message: String::new(),
            metadata: BTreeMap::new(),
            fields: Vec::new(),
            preconditions: Vec::new(),
            retry_after: None,
        })
    }

    fn unavailable(retry_after: Option<Duration>) -> Error {
        let refusal = Refusal { retry_after, ..*refusal(Code::Unavailable, "TARGET_UNAVAILABLE") };
        Error::Unavailable { retry_after, refusal: Box::new(refusal) }
    }

    fn denied() -> Error {
        Error::NotFoundOrDenied(refusal(Code::PermissionDenied, "DENIED"))
    }

    #[test]
    fn each_reason_of_an_unrenewed_lease_leads_on() {
        let precondition = |reason| Error::Precondition(refusal(Code::FailedPrecondition, reason));
        for (error, leaves) in [
            (precondition("LEASE_ENDED"), Unrenewed::Nothing),
            (Error::NotFoundOrDenied(refusal(Code::NotFound, "NOT_FOUND")), Unrenewed::Nothing),
            (precondition("LEASE_AT_ITS_LONGEST"), Unrenewed::AsLong),
            (precondition("TARGET_REFUSED"), Unrenewed::AsLong),
            (
                Error::NotFoundOrDenied(refusal(Code::PermissionDenied, "LEASE_NOT_RENEWED")),
                Unrenewed::AsLong,
            ),
            (precondition("CLOCK_IN_DOUBT"), Unrenewed::Again),
            (unavailable(None), Unrenewed::Again),
            (Error::DeadlineExceeded { after: LONG }, Unrenewed::Again),
            (Error::Sealed(refusal(Code::FailedPrecondition, "SEALED")), Unrenewed::Again),
            (Error::Unauthenticated(refusal(Code::Unauthenticated, "UNAUTHENTICATED")), Unrenewed::Again),
        ] {
            assert_eq!(unrenewed(&error), leaves, "{error:?}");
        }
    }

    #[test]
    fn a_request_id_is_kept_while_its_issue_may_have_happened() {
        let ended = Error::Precondition(refusal(Code::FailedPrecondition, "LEASE_ENDED"));
        assert!(is_settled(&ended) && is_settled(&denied()));
        for open in [
            unavailable(None),
            Error::DeadlineExceeded { after: LONG },
            Error::Server(refusal(Code::Unknown, "OUTCOME_UNRECORDED")),
            Error::MalformedAnswer { what: "x" },
        ] {
            assert!(!is_settled(&open), "{open:?}");
        }
    }

    #[test]
    fn what_passes_is_asked_for_often_and_a_refusal_seldom() {
        let mut waited = Duration::ZERO;
        for failures in 1..=6 {
            waited += pause(&unavailable(None), failures, LONG, 1.0);
        }
        assert!(waited < Duration::from_secs(35), "{waited:?}");
        assert_eq!(pause(&unavailable(None), 40, LONG, 1.0), PASSING.1);
        assert!(pause(&denied(), 1, Duration::from_secs(2), 0.0) >= Duration::from_secs(15));
        assert_eq!(pause(&denied(), 40, LONG, 1.0), REFUSED.1);
    }

    #[test]
    fn a_limit_and_a_clock_in_doubt_are_waited_out_and_not_beyond_the_end() {
        let limit = |retry_after| Error::LimitExceeded {
            retry_after,
            refusal: refusal(Code::ResourceExhausted, "LEASE_LIMIT"),
        };
        let doubt = Error::Precondition(refusal(Code::FailedPrecondition, "CLOCK_IN_DOUBT"));
        let left = Duration::from_secs(8);
        for error in [limit(None), limit(Some(Duration::from_secs(1))), doubt] {
            assert_eq!(failure(&error), Failure::Passing, "{error:?}");
            assert_eq!(pause(&error, 20, left, 1.0), left / 2, "{error:?}");
            assert!(!is_settled(&error), "the next try may come to the same lease");
        }
        // One that names another limit needs somebody.
        let other = Error::LimitExceeded {
            retry_after: None,
            refusal: refusal(Code::ResourceExhausted, "REQUEST_TOO_LARGE"),
        };
        assert_eq!(failure(&other), Failure::Refused);
    }

    #[test]
    fn the_end_is_not_slept_over_and_what_the_vault_asks_for_is_waited() {
        let left = Duration::from_secs(8);
        assert_eq!(pause(&unavailable(None), 20, left, 1.0), left / 2);
        assert_eq!(pause(&unavailable(Some(left * 2)), 1, left, 1.0), left * 2);
        let jittered = |jitter| pause(&unavailable(None), 9, LONG, jitter);
        assert!(jittered(0.0) < jittered(1.0) && jittered(f64::NAN) > Duration::ZERO);
    }
}
