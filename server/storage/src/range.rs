//! A half-open range of keys. Invariant: it says exactly which keys it holds, so engines need no prefix of their own.

use bytes::Bytes;

/// Keys from `start` on, up to but without `end`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    start: Bytes,
    end: Option<Bytes>,
}

impl Range {
    /// Every key, or every key after `after`.
    #[must_use]
    pub fn all(after: Option<&[u8]>) -> Self {
        Self { start: Bytes::new(), end: None }.after(after)
    }

    /// Every key that begins with `prefix`, or those of them after `after`.
    #[must_use]
    pub fn prefix(prefix: impl AsRef<[u8]>, after: Option<&[u8]>) -> Self {
        let prefix = prefix.as_ref();
        Self { start: Bytes::copy_from_slice(prefix), end: behind(prefix) }.after(after)
    }

    /// Every key from `start` on, up to but without `end`.
    #[must_use]
    pub fn between(start: impl Into<Bytes>, end: impl Into<Bytes>) -> Self {
        Self { start: start.into(), end: Some(end.into()) }
    }

    /// The first key that may be in it.
    #[must_use]
    pub fn start(&self) -> &[u8] {
        &self.start
    }

    /// The first key behind it; `None` if only the keyspace ends it.
    #[must_use]
    pub fn end(&self) -> Option<&[u8]> {
        self.end.as_deref()
    }

    /// Whether no key at all can be in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| *end <= self.start)
    }

    /// Whether a key is in it.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= &*self.start && self.end.as_ref().is_none_or(|end| key < &**end)
    }

    fn after(mut self, after: Option<&[u8]>) -> Self {
        // The next possible key is the same with a zero byte behind it. A caller's page token never widens the range.
        if let Some(after) = after {
            let next: Vec<u8> = after.iter().copied().chain([0]).collect();
            self.start = self.start.max(Bytes::from(next));
        }
        self
    }
}

fn behind(prefix: &[u8]) -> Option<Bytes> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix.get(..=last)?.to_vec();
    let byte = end.last_mut()?;
    *byte = byte.saturating_add(1);
    Some(end.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_prefix_range_holds_just_the_keys_with_that_prefix(
            prefix in prop::collection::vec(prop_oneof![Just(0_u8), Just(1), Just(254), Just(255)], 0..4),
            key in prop::collection::vec(prop_oneof![Just(0_u8), Just(1), Just(254), Just(255)], 0..6),
            after in prop::option::of(prop::collection::vec(prop_oneof![Just(0_u8), Just(255)], 0..5)),
        ) {
            let range = Range::prefix(&prefix, after.as_deref());
            let expected = key.starts_with(&prefix) && after.is_none_or(|after| key > after);
            prop_assert_eq!(range.contains(&key), expected);
            prop_assert!(!(range.is_empty() && expected));
        }
    }
}
