//! Takes apart the headers of a request. Invariant: only what gRPC itself needs stays in them; a claim about a client
//! certificate or an address is dropped with everything else, whatever its name.
//!
//! Absent on purpose: `Debug` and `Display` of the token.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, TE, USER_AGENT};
use keystead_domain::id::RequestId;
use tonic::{Code, Status};
use zeroize::Zeroizing;

use crate::grpc::status::status;

/// The token that a caller showed, unchecked; in the extensions of its request. Wiped with its last owner.
#[derive(Clone)]
pub struct PresentedToken(Arc<Zeroizing<Vec<u8>>>);

impl PresentedToken {
    /// The one door to the content.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

/// What the headers held.
pub(super) struct Taken {
    pub(super) request_id: Option<RequestId>,
    pub(super) trace_id: Option<String>,
    pub(super) timeout: Option<Duration>,
    pub(super) token: Option<PresentedToken>,
}

pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const KEPT: [HeaderName; 5] = [
    CONTENT_TYPE,
    TE,
    USER_AGENT,
    HeaderName::from_static("grpc-encoding"),
    HeaderName::from_static("grpc-accept-encoding"),
];

/// Empties the headers but for what gRPC needs.
pub(super) fn take(headers: &mut HeaderMap) -> Result<Taken, Status> {
    let taken = Taken {
        request_id: single(headers, &REQUEST_ID).and_then(request_id),
        trace_id: single(headers, &TRACEPARENT).and_then(trace_id),
        timeout: match single(headers, &GRPC_TIMEOUT) {
            Some(value) => Some(timeout(value).ok_or_else(bad_timeout)?),
            None => None,
        },
        token: token(headers)?,
    };
    for name in [&REQUEST_ID, &TRACEPARENT, &GRPC_TIMEOUT, &AUTHORIZATION] {
        headers.remove(name);
    }
    // Most requests have nothing else, and keep their map.
    let only_kept = headers.len() == headers.keys_len() && headers.keys().all(|name| KEPT.contains(name));
    if !only_kept {
        let mut kept = HeaderMap::with_capacity(KEPT.len());
        for name in KEPT {
            if let Some(value) = headers.remove(&name) {
                kept.insert(name, value);
            }
        }
        *headers = kept;
    }
    Ok(taken)
}

fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

fn token(headers: &HeaderMap) -> Result<Option<PresentedToken>, Status> {
    if !headers.contains_key(AUTHORIZATION) {
        return Ok(None);
    }
    let bytes = single(headers, &AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    match bytes {
        Some(token) if token.starts_with(b"kst_") && token.len() <= MOST_TOKEN_BYTES => {
            Ok(Some(PresentedToken(Arc::new(Zeroizing::new(token.to_vec())))))
        }
        _ => Err(status(
            Code::Unauthenticated,
            "CREDENTIAL_MALFORMED",
            "authorization takes one value of the form `Bearer kst_...`",
        )),
    }
}

// Several times what a token of ours has.
const MOST_TOKEN_BYTES: usize = 256;

fn request_id(value: &HeaderValue) -> Option<RequestId> {
    RequestId::parse(value.to_str().ok()?).ok()
}

// https://www.w3.org/TR/trace-context/, version 00: 00-<trace id>-<parent id>-<flags>.
fn trace_id(value: &HeaderValue) -> Option<String> {
    let mut parts = value.to_str().ok()?.split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hex = |text: &str, digits: usize| {
        text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let zero = |text: &str| text.bytes().all(|byte| byte == b'0');
    let good = version == "00"
        && parts.next().is_none()
        && hex(trace, 32)
        && !zero(trace)
        && hex(parent, 16)
        && !zero(parent)
        && hex(flags, 2);
    good.then(|| trace.to_owned())
}

// https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md: 1 to 8 digits and a unit.
fn timeout(value: &HeaderValue) -> Option<Duration> {
    let (unit, digits) = value.as_bytes().split_last()?;
    let digits = std::str::from_utf8(digits).ok()?;
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        b'H' => Some(Duration::from_secs(number.saturating_mul(3600))),
        b'M' => Some(Duration::from_secs(number.saturating_mul(60))),
        b'S' => Some(Duration::from_secs(number)),
        b'm' => Some(Duration::from_millis(number)),
        b'u' => Some(Duration::from_micros(number)),
        b'n' => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

fn bad_timeout() -> Status {
    status(Code::InvalidArgument, "TIMEOUT_MALFORMED", "grpc-timeout takes 1 to 8 digits and a unit")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(entries: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in entries {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn only_what_grpc_needs_stays() {
        let mut headers = headers(&[
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            ("authorization", "Bearer kst_abc"),
            ("x-forwarded-client-cert", "URI=spiffe://a/b"),
            ("x-ssl-client-cert", "x"),
            ("forwarded", "for=1.2.3.4"),
            ("anything", "at all"),
        ]);
        let taken = take(&mut headers).unwrap();
        assert_eq!(taken.token.unwrap().expose(), b"kst_abc");
        let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-type", "te"]);
    }

    #[test]
    fn what_was_taken_leaves_and_what_is_kept_is_there_once() {
        let usual =
            [("te", "trailers"), ("user-agent", "x"), ("x-request-id", "abc"), ("grpc-timeout", "1S")];
        let mut usual = headers(&usual);
        take(&mut usual).unwrap();
        assert_eq!(usual, headers(&[("te", "trailers"), ("user-agent", "x")]));
        let mut twice = headers(&[("te", "trailers"), ("user-agent", "first"), ("user-agent", "second")]);
        take(&mut twice).unwrap();
        assert_eq!(twice, headers(&[("te", "trailers"), ("user-agent", "first")]));
    }

    #[test]
    fn malformed_credentials_are_refused() {
        let long = "Bearer kst_".to_owned() + &"a".repeat(300);
        let long: &'static str = Box::leak(long.into_boxed_str());
        for value in ["kst_abc", "bearer kst_abc", "Bearer  kst_abc", "Bearer abc", "Basic a", "", long] {
            let refused = take(&mut headers(&[("authorization", value)])).err().unwrap();
            assert_eq!(refused.code(), Code::Unauthenticated);
        }
        let twice = [("authorization", "Bearer kst_a"), ("authorization", "Bearer kst_b")];
        assert!(take(&mut headers(&twice)).is_err());
    }

    #[test]
    fn request_ids_are_taken_or_left() {
        let id = |value| take(&mut headers(&[("x-request-id", value)])).unwrap().request_id;
        assert_eq!(id("a.B_3-x").unwrap().as_str(), "a.B_3-x");
        let long: &'static str = Box::leak("a".repeat(65).into_boxed_str());
        for value in ["", "a b", "a/b", "a\"b", long] {
            assert_eq!(id(value), None);
        }
    }

    #[test]
    fn trace_ids_are_parsed_strictly() {
        let id = |value| take(&mut headers(&[("traceparent", value)])).unwrap().trace_id;
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(id(good).as_deref(), Some("0af7651916cd43dd8448eb211c80319c"));
        for value in [
            "",
            "00",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
        ] {
            assert_eq!(id(value), None, "{value}");
        }
    }

    #[test]
    fn timeouts_have_their_units() {
        let parse = |value| timeout(&HeaderValue::from_static(value));
        assert_eq!(parse("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(parse("3M"), Some(Duration::from_secs(180)));
        assert_eq!(parse("15S"), Some(Duration::from_secs(15)));
        assert_eq!(parse("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parse("7u"), Some(Duration::from_micros(7)));
        assert_eq!(parse("99999999n"), Some(Duration::from_nanos(99_999_999)));
        for value in ["", "S", "1", "1x", "-1S", "+1S", "123456789S", "1.5S"] {
            assert_eq!(parse(value), None, "{value}");
        }
    }
}
