//! The PINs that the token refused. Invariant: one that is in here is not sent again by this process. Absent: the PINs
//! themselves; only salted digests are kept, and only in memory.

use sha2::{Digest, Sha256};

/// Remembers refused PINs.
pub(crate) struct RefusedPins {
    salt: [u8; 32],
    digests: Vec<[u8; 32]>,
}

impl RefusedPins {
    pub(crate) fn new(salt: [u8; 32]) -> Self {
        Self { salt, digests: Vec::new() }
    }

    pub(crate) fn insert(&mut self, pin: &[u8]) {
        if !self.contains(pin) {
            self.digests.push(self.digest(pin));
        }
    }

    pub(crate) fn contains(&self, pin: &[u8]) -> bool {
        self.digests.contains(&self.digest(pin))
    }

    /// Forgets one that the token takes by now.
    pub(crate) fn remove(&mut self, pin: &[u8]) {
        let digest = self.digest(pin);
        self.digests.retain(|other| *other != digest);
    }

    fn digest(&self, pin: &[u8]) -> [u8; 32] {
        Sha256::new().chain_update(self.salt).chain_update(pin).finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_only_what_was_refused() {
        let mut refused = RefusedPins::new([7; 32]);
        refused.insert(b"1111");
        refused.insert(b"1111");
        assert!(refused.contains(b"1111") && !refused.contains(b"2222"));
        assert_eq!(refused.digests.len(), 1);
        refused.insert(b"2222");
        refused.remove(b"1111");
        assert!(!refused.contains(b"1111") && refused.contains(b"2222"));
    }
}
