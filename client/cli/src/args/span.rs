//! Spans of time as people write them: `90s`, `15m`, `1h30m`, `7d`. Invariant: never nothing, and never for ever.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Seconds of each unit, the largest first.
const UNITS: [(char, u64); 4] = [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];

/// A span of whole seconds, at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span(Duration);

/// Why a text is no span.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a span of time is a number with its unit, as in 90s, 15m, 1h30m or 7d, and longer than nothing")]
pub(crate) struct SpanError;

impl Span {
    /// So long; fractions of a second are left out.
    pub(crate) fn of(span: Duration) -> Self {
        Self(Duration::from_secs(span.as_secs()))
    }

    pub(crate) fn duration(self) -> Duration {
        self.0
    }

    /// For the wire.
    pub(crate) fn to_wire(self) -> prost_types::Duration {
        // Reading keeps spans well below the wire's limit.
        prost_types::Duration::try_from(self.0).unwrap_or_default()
    }

    /// Off the wire; what is missing or negative is nothing.
    pub(crate) fn from_wire(span: Option<&prost_types::Duration>) -> Self {
        let span = span.and_then(|span| Duration::try_from(*span).ok());
        Self::of(span.unwrap_or_default())
    }
}

impl FromStr for Span {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Self, SpanError> {
        let (mut rest, mut seconds) = (text, 0_u64);
        let mut units = UNITS.iter();
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or(SpanError)?;
            let (number, after) = rest.split_at(digits);
            let number: u64 = number.parse().map_err(|_| SpanError)?;
            let mut letters = after.chars();
            let unit = letters.next().ok_or(SpanError)?;
            // Units come once, the larger one first.
            let (_, each) = units.find(|(letter, _)| *letter == unit).ok_or(SpanError)?;
            seconds =
                number.checked_mul(*each).and_then(|more| seconds.checked_add(more)).ok_or(SpanError)?;
            rest = letters.as_str();
        }
        match i64::try_from(seconds) {
            Ok(1..) => Ok(Self(Duration::from_secs(seconds))),
            _ => Err(SpanError),
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = self.0.as_secs();
        if left == 0 {
            return f.write_str("0s");
        }
        for (letter, each) in UNITS {
            if left >= each {
                write!(f, "{}{letter}", left / each)?;
                left %= each;
            }
        }
        Ok(())
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn spans_are_read_as_people_write_them() {
        for (text, seconds) in
            [("90s", 90), ("15m", 900), ("1h30m", 5_400), ("7d", 604_800), ("1d2h3m4s", 93_784)]
        {
            assert_eq!(text.parse::<Span>().unwrap().duration().as_secs(), seconds, "{text}");
        }
        for wrong in [
            "",
            "0s",
            "0d0s",
            "15",
            "m",
            "15 m",
            "-5m",
            "+5m",
            "1.5h",
            "15M",
            "30m1h",
            "1m1m",
            "5m ",
            "1w",
            "99999999999999999999s",
            "9223372036854775808s",
            "213503982334602d",
        ] {
            assert_eq!(wrong.parse::<Span>(), Err(SpanError), "{wrong:?}");
        }
    }

    #[test]
    fn nothing_off_the_wire_is_shown_as_nothing() {
        assert_eq!(Span::from_wire(None).to_string(), "0s");
        let negative = prost_types::Duration { seconds: -1, nanos: 0 };
        assert_eq!(Span::from_wire(Some(&negative)).to_string(), "0s");
    }

    proptest! {
        #[test]
        fn a_span_reads_as_it_prints(seconds in 1..=4_000_000_000_u64) {
            let span = Span::of(Duration::from_secs(seconds));
            prop_assert_eq!(span.to_string().parse(), Ok(span));
            prop_assert_eq!(Span::from_wire(Some(&span.to_wire())), span);
        }
    }
}
