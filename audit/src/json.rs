//! Entries as lines of JSON, for people's tools.
//!
//! Invariant: one entry, one line, and every field of the header and of an opened body is in it. Absent: the sealed
//! bytes of a body that was not opened; only that it was not, and why.

use crate::body::Body;
use crate::entry::{Entry, OpenBodyError, UnixMillis};
use crate::seal::{BodyOpener, OpenFailed};
use data_encoding::HEXLOWER;
use serde::Serialize;

#[derive(Serialize)]
struct Line<'a> {
    seq: u64,
    time: String,
    time_ms: u64,
    node: &'a str,
    kind: &'static str,
    sealed: bool,
    leaf: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<Body>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unreadable: Option<&'static str>,
}

/// An entry as one line of JSON, without the line's end. A body that cannot be opened is named `unreadable`.
pub fn entry_json(entry: &Entry, opener: Option<&dyn BodyOpener>) -> String {
    let (body, unreadable) = match entry.open(opener) {
        Ok(body) => (Some(body), None),
        Err(OpenBodyError::NoOpener) => (None, Some("sealed")),
        Err(OpenBodyError::Open(OpenFailed::NotNow)) => (None, Some("key-not-available")),
        Err(OpenBodyError::Open(OpenFailed::NoSuchKey)) => (None, Some("no-such-key")),
        Err(OpenBodyError::Open(OpenFailed::NotAuthentic)) => (None, Some("not-authentic")),
        Err(OpenBodyError::Malformed(_)) => (None, Some("malformed")),
    };
    let line = Line {
        seq: entry.seq,
        time: rfc3339(entry.time),
        time_ms: entry.time.0,
        node: entry.node.as_str(),
        kind: entry.kind.as_str(),
        sealed: entry.is_sealed(),
        leaf: HEXLOWER.encode(&entry.leaf_hash()),
        body,
        unreadable,
    };
    // Strings and integers always serialize.
    serde_json::to_string(&line).unwrap_or_default()
}

/// A point in time as RFC 3339 writes it, in UTC with milliseconds: `2026-11-22T01:50:39.000Z`.
pub fn rfc3339(time: UnixMillis) -> String {
    let (seconds, millis) = (time.0 / 1000, time.0 % 1000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// Year, month and day of a number of days since 1970-01-01, by counting from 0000-03-01 in cycles of 400 years.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days.saturating_add(719_468);
    let (cycle, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (year + 400 * cycle + carry, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{EntryKind, Node, StoredBody};

    #[test]
    fn times_are_written_as_rfc_3339() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_800_000, "2000-03-01T00:00:00.000Z"),
            (1_795_312_239_001, "2026-11-22T01:50:39.001Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(rfc3339(UnixMillis(millis)), text);
        }
    }

    #[test]
    fn the_largest_time_is_written_too() {
        assert!(rfc3339(UnixMillis(u64::MAX)).ends_with('Z'));
    }

    #[test]
    fn a_line_has_the_fields_that_are_there_and_escapes_the_rest() {
        let body = Body {
            principal: "service/shop".into(),
            resource: "secret/a\u{1b}[2J\nb".into(),
            detail: vec![("why".into(), "\"quoted\"".into())],
            ..Body::default()
        };
        let entry = Entry {
            seq: 7,
            time: UnixMillis(0),
            kind: EntryKind::Refused,
            node: Node::new("n1").unwrap(),
            body: StoredBody::Clear(body.encode().unwrap()),
        };
        let line = entry_json(&entry, None);
        assert!(!line.contains('\n') && !line.contains('\u{1b}'));
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["kind"], "refused");
        assert_eq!(value["body"]["principal"], "service/shop");
        assert_eq!(value["body"]["resource"], "secret/a\u{1b}[2J\nb");
        assert_eq!(value["body"]["detail"][0][1], "\"quoted\"");
        assert!(value["body"].get("lease").is_none());
        assert!(value.get("unreadable").is_none());
    }

    #[test]
    fn a_sealed_body_without_a_key_is_named_so() {
        let entry = Entry {
            seq: 0,
            time: UnixMillis(0),
            kind: EntryKind::Read,
            node: Node::new("n1").unwrap(),
            body: StoredBody::Sealed { key_id: [0; 16], bytes: vec![1, 2, 3] },
        };
        let value: serde_json::Value = serde_json::from_str(&entry_json(&entry, None)).unwrap();
        assert_eq!(value["unreadable"], "sealed");
        assert_eq!(value["sealed"], true);
        assert!(value.get("body").is_none());
    }
}
