//! An atomic batch with preconditions. Invariant: the limits are those of the smallest engine to come (etcd), so that what
//! commits on one engine commits on all. Absent: ranges to delete, and merges.

use std::collections::HashSet;

use bytes::Bytes;

use crate::{Keyspace, Revision, StorageError};

/// Operations and requirements in one batch.
pub const MAX_OPERATIONS: usize = 64;

/// Bytes of keys and values in one batch: 1.25 MiB, which etcd's 1.5 MiB request still carries.
pub const MAX_BATCH_BYTES: usize = 1_310_720;

/// Bytes of one key.
pub const MAX_KEY_BYTES: usize = 512;

/// What must hold of a key for the batch to be applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precondition {
    /// The key has no value.
    Absent,
    /// The key has some value.
    Exists,
    /// The key's value was put by this commit.
    Revision(Revision),
}

impl Precondition {
    /// Whether it holds of a key whose value was put by `current`.
    #[must_use]
    pub fn holds(self, current: Option<Revision>) -> bool {
        match self {
            Self::Absent => current.is_none(),
            Self::Exists => current.is_some(),
            Self::Revision(wanted) => current == Some(wanted),
        }
    }
}

/// A precondition on a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// Where the key lives.
    pub keyspace: Keyspace,
    /// The key.
    pub key: Bytes,
    /// What must hold.
    pub precondition: Precondition,
}

/// One write of a batch.
#[derive(Clone, PartialEq, Eq)]
pub struct Operation {
    /// Where the key lives.
    pub keyspace: Keyspace,
    /// The key.
    pub key: Bytes,
    /// The value to put, or `None` to delete.
    pub value: Option<Bytes>,
}

impl std::fmt::Debug for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.value {
            Some(value) => write!(f, "put({}, {} bytes)", self.keyspace, value.len()),
            None => write!(f, "delete({})", self.keyspace),
        }
    }
}

/// Writes that are applied together, or not at all.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    operations: Vec<Operation>,
    requirements: Vec<Requirement>,
}

impl Batch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a value.
    pub fn put(&mut self, keyspace: Keyspace, key: impl Into<Bytes>, value: impl Into<Bytes>) -> &mut Self {
        self.operations.push(Operation { keyspace, key: key.into(), value: Some(value.into()) });
        self
    }

    /// Deletes a key; one that is absent already stays so.
    pub fn delete(&mut self, keyspace: Keyspace, key: impl Into<Bytes>) -> &mut Self {
        self.operations.push(Operation { keyspace, key: key.into(), value: None });
        self
    }

    /// Demands something of a key as it was before the batch.
    pub fn require(
        &mut self,
        keyspace: Keyspace,
        key: impl Into<Bytes>,
        precondition: Precondition,
    ) -> &mut Self {
        self.requirements.push(Requirement { keyspace, key: key.into(), precondition });
        self
    }

    /// The writes, in the order they were added.
    #[must_use]
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// The demands, in the order they were added.
    #[must_use]
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Bytes of all keys and values.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let written = self
            .operations
            .iter()
            .map(|operation| operation.key.len() + operation.value.as_ref().map_or(0, Bytes::len));
        let demanded = self.requirements.iter().map(|requirement| requirement.key.len());
        written.chain(demanded).fold(0, usize::saturating_add)
    }

    /// For engines: the limits, to be checked before anything else.
    pub fn check(&self) -> Result<(), StorageError> {
        let (operations, bytes) = (self.operations.len() + self.requirements.len(), self.bytes());
        if operations > MAX_OPERATIONS || bytes > MAX_BATCH_BYTES {
            return Err(StorageError::BatchTooLarge { operations, bytes });
        }
        let written = self.operations.iter().map(|operation| (operation.keyspace, &operation.key));
        let demanded = self.requirements.iter().map(|requirement| (requirement.keyspace, &requirement.key));
        for (keyspace, key) in written.chain(demanded) {
            if key.is_empty() || key.len() > MAX_KEY_BYTES {
                return Err(StorageError::KeyLength { keyspace, length: key.len() });
            }
        }
        let mut seen = HashSet::with_capacity(self.operations.len());
        for (operation, written) in self.operations.iter().enumerate() {
            if !seen.insert((written.keyspace, &written.key)) {
                return Err(StorageError::DuplicateKey { keyspace: written.keyspace, operation });
            }
        }
        Ok(())
    }

    /// For engines: the first requirement that does not hold, given each key's current revision.
    pub fn check_requirements(
        &self,
        mut current: impl FnMut(Keyspace, &[u8]) -> Result<Option<Revision>, StorageError>,
    ) -> Result<(), StorageError> {
        for (position, requirement) in self.requirements.iter().enumerate() {
            if !requirement.precondition.holds(current(requirement.keyspace, &requirement.key)?) {
                return Err(StorageError::Conflict { keyspace: requirement.keyspace, requirement: position });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_at_the_limits_passes_and_one_over_does_not() {
        let mut batch = Batch::new();
        for n in 0..64_u8 {
            batch.put(Keyspace::Secrets, vec![n], vec![0; 20_000]);
        }
        assert!(batch.check().is_ok());
        batch.require(Keyspace::Secrets, vec![0], Precondition::Exists);
        assert!(matches!(batch.check(), Err(StorageError::BatchTooLarge { operations: 65, .. })));

        let mut batch = Batch::new();
        batch.put(Keyspace::Secrets, vec![0], vec![0; MAX_BATCH_BYTES - 1]);
        assert!(batch.check().is_ok());
        batch.delete(Keyspace::Secrets, vec![1]);
        assert!(
            matches!(batch.check(), Err(StorageError::BatchTooLarge { bytes, .. }) if bytes == MAX_BATCH_BYTES + 1)
        );
    }

    #[test]
    fn keys_have_a_length_and_are_written_once() {
        for length in [0, MAX_KEY_BYTES + 1] {
            let mut batch = Batch::new();
            batch.delete(Keyspace::Seal, vec![7; length]);
            assert!(
                matches!(batch.check(), Err(StorageError::KeyLength { length: found, .. }) if found == length)
            );
        }
        let mut batch = Batch::new();
        batch
            .put(Keyspace::Seal, vec![1], vec![])
            .put(Keyspace::Meta, vec![1], vec![])
            .delete(Keyspace::Seal, vec![1]);
        assert!(matches!(
            batch.check(),
            Err(StorageError::DuplicateKey { keyspace: Keyspace::Seal, operation: 2 })
        ));
    }

    #[test]
    fn debug_output_holds_no_value() {
        let mut batch = Batch::new();
        batch.put(Keyspace::Secrets, vec![1], "canary-7f3a".as_bytes().to_vec());
        assert!(!format!("{batch:?}").contains("canary"));
    }
}
