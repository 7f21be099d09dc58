//! The versions of one secret and their only legal moves: active ⇄ deleted, and either → destroyed.
//!
//! Invariant: version numbers rise by one, are never used twice and end at `current`; a destroyed version
//! stays destroyed. A change that names an unknown version changes nothing at all. At most [`MAX_VERSIONS`]
//! are kept: destroyed ones make room from the front, others never vanish by themselves. The values are
//! absent.

use serde::{Deserialize, Serialize};

use crate::id::RecordId;
use crate::principal::PrincipalName;
use crate::time::UnixMillis;

/// The most versions a secret's record keeps.
pub const MAX_VERSIONS: usize = 1_000;

/// What state a version is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum VersionState {
    /// Can be read.
    Active,
    /// Hidden, until undeleted or destroyed.
    Deleted {
        /// Since when.
        at: UnixMillis,
    },
    /// Its data key is gone; nothing brings it back.
    Destroyed {
        /// Since when.
        at: UnixMillis,
    },
}

/// What is known of one version without opening it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionMeta {
    /// Its number, from 1.
    pub version: u64,
    /// Its state.
    pub state: VersionState,
    /// When it was written.
    pub created: UnixMillis,
    /// Who wrote it.
    pub created_by: PrincipalName,
    /// How many bytes its value has.
    pub size: u32,
    /// The record of its data key.
    pub data_key: RecordId,
    /// The version of the master key that wraps the data key.
    pub master_version: u32,
}

/// The versions of one secret.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "StoredMeta", into = "StoredMeta")]
pub struct SecretMeta {
    current: u64,
    versions: Vec<VersionMeta>,
}

/// Why a version can't be made, chosen or changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VersionError {
    /// Somebody else wrote in between.
    #[error("expected version {expected}, but the current version is {current}")]
    Conflict {
        /// The version the caller expected (0: none yet).
        expected: u64,
        /// The version it is.
        current: u64,
    },
    /// No version of this number is kept.
    #[error("version {version} does not exist")]
    NoSuchVersion {
        /// The version asked for.
        version: u64,
    },
    /// The version is deleted.
    #[error("version {version} is deleted; it can be undeleted")]
    Deleted {
        /// The version asked for.
        version: u64,
    },
    /// The version is destroyed.
    #[error("version {version} is destroyed")]
    Destroyed {
        /// The version asked for.
        version: u64,
    },
    /// An empty list names nothing, rather than everything.
    #[error("no versions are named")]
    NoneNamed,
    /// The record is full of versions that are still there.
    #[error("{MAX_VERSIONS} versions are kept; destroy version {oldest} or older ones first")]
    TooManyVersions {
        /// The oldest version, which would have to go.
        oldest: u64,
    },
    /// The numbers are used up.
    #[error("version numbers are used up")]
    Exhausted,
    /// A version that does not follow the current one.
    #[error("version {found} can't follow version {current}")]
    OutOfOrder {
        /// The current version.
        current: u64,
        /// The version that was to follow.
        found: u64,
    },
}

impl SecretMeta {
    /// A secret without versions.
    pub fn new() -> Self {
        Self::default()
    }

    /// The number of the newest version; 0 if none was written yet.
    pub const fn current(&self) -> u64 {
        self.current
    }

    /// The versions kept, oldest first.
    pub fn versions(&self) -> &[VersionMeta] {
        &self.versions
    }

    /// The number the next version will have. With `expected` it is a compare-and-set: the current version
    /// must be that one, 0 meaning that nothing was written yet.
    pub fn next(&self, expected: Option<u64>) -> Result<u64, VersionError> {
        if let Some(expected) = expected.filter(|expected| *expected != self.current) {
            return Err(VersionError::Conflict { expected, current: self.current });
        }
        if let Some(oldest) = self.blocking() {
            return Err(VersionError::TooManyVersions { oldest });
        }
        self.current.checked_add(1).ok_or(VersionError::Exhausted)
    }

    /// Adds the next version; drops the oldest destroyed one if the record is full.
    pub fn push(&mut self, meta: VersionMeta) -> Result<(), VersionError> {
        if meta.version != self.next(None)? {
            return Err(VersionError::OutOfOrder { current: self.current, found: meta.version });
        }
        if self.versions.len() >= MAX_VERSIONS {
            self.versions.remove(0);
        }
        self.current = meta.version;
        self.versions.push(meta);
        Ok(())
    }

    /// The newest version that is active, which need not be the current one.
    pub fn latest_active(&self) -> Option<&VersionMeta> {
        self.versions.iter().rev().find(|meta| meta.state == VersionState::Active)
    }

    /// The version to read: the one asked for, or the current one. Never falls back to an older version,
    /// which would hand out a secret that was replaced.
    pub fn select(&self, version: Option<u64>) -> Result<&VersionMeta, VersionError> {
        let version = version.unwrap_or(self.current);
        let meta = self.version(version).ok_or(VersionError::NoSuchVersion { version })?;
        match meta.state {
            VersionState::Active => Ok(meta),
            VersionState::Deleted { .. } => Err(VersionError::Deleted { version }),
            VersionState::Destroyed { .. } => Err(VersionError::Destroyed { version }),
        }
    }

    /// One version, in whatever state.
    pub fn version(&self, version: u64) -> Option<&VersionMeta> {
        self.versions.iter().find(|meta| meta.version == version)
    }

    /// Hides versions. Those deleted or destroyed already stay as they are; returns the changed ones.
    pub fn delete(&mut self, versions: &[u64], at: UnixMillis) -> Result<Vec<VersionMeta>, VersionError> {
        self.change(versions, |state| match state {
            VersionState::Active => Some(VersionState::Deleted { at }),
            VersionState::Deleted { .. } | VersionState::Destroyed { .. } => None,
        })
    }

    /// Shows deleted versions again. A destroyed one among them is an error, and nothing changes.
    pub fn undelete(&mut self, versions: &[u64]) -> Result<Vec<VersionMeta>, VersionError> {
        let gone = |meta: &&VersionMeta| {
            versions.contains(&meta.version) && matches!(meta.state, VersionState::Destroyed { .. })
        };
        if let Some(meta) = self.versions.iter().find(gone) {
            return Err(VersionError::Destroyed { version: meta.version });
        }
        self.change(versions, |state| match state {
            VersionState::Deleted { .. } => Some(VersionState::Active),
            VersionState::Active | VersionState::Destroyed { .. } => None,
        })
    }

    /// Marks versions as destroyed; returns the changed ones, whose data keys have to go in the same batch.
    pub fn destroy(&mut self, versions: &[u64], at: UnixMillis) -> Result<Vec<VersionMeta>, VersionError> {
        self.change(versions, |state| match state {
            VersionState::Active | VersionState::Deleted { .. } => Some(VersionState::Destroyed { at }),
            VersionState::Destroyed { .. } => None,
        })
    }

    fn change(
        &mut self,
        versions: &[u64],
        rule: impl Fn(VersionState) -> Option<VersionState>,
    ) -> Result<Vec<VersionMeta>, VersionError> {
        if versions.is_empty() {
            return Err(VersionError::NoneNamed);
        }
        if let Some(&version) = versions.iter().find(|version| self.version(**version).is_none()) {
            return Err(VersionError::NoSuchVersion { version });
        }
        let mut changed = Vec::new();
        for meta in self.versions.iter_mut().filter(|meta| versions.contains(&meta.version)) {
            if let Some(state) = rule(meta.state) {
                meta.state = state;
                changed.push(meta.clone());
            }
        }
        Ok(changed)
    }

    fn blocking(&self) -> Option<u64> {
        let oldest = self.versions.first().filter(|_| self.versions.len() >= MAX_VERSIONS)?;
        (!matches!(oldest.state, VersionState::Destroyed { .. })).then_some(oldest.version)
    }
}

#[derive(Serialize, Deserialize)]
struct StoredMeta {
    current: u64,
    versions: Vec<VersionMeta>,
}

/// Why a stored record is not the versions of a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoredMetaError {
    /// The numbers don't rise by one up to the current version.
    #[error("stored versions: expected version {expected}, found {found}")]
    Sequence {
        /// What should follow.
        expected: u64,
        /// What follows.
        found: u64,
    },
    /// More versions than a record keeps, or none although some were written.
    #[error("stored versions: {count} of {current} are kept")]
    Count {
        /// How many there are.
        count: usize,
        /// The current version.
        current: u64,
    },
}

impl TryFrom<StoredMeta> for SecretMeta {
    type Error = StoredMetaError;

    fn try_from(stored: StoredMeta) -> Result<Self, StoredMetaError> {
        let StoredMeta { current, versions } = stored;
        let count = versions.len();
        let kept = u64::try_from(count).unwrap_or(u64::MAX);
        if count > MAX_VERSIONS || kept > current || (kept == 0) != (current == 0) {
            return Err(StoredMetaError::Count { count, current });
        }
        let first = (current - kept).saturating_add(1);
        for (expected, meta) in (first..=current).zip(&versions) {
            if meta.version != expected {
                return Err(StoredMetaError::Sequence { expected, found: meta.version });
            }
        }
        Ok(Self { current, versions })
    }
}

impl From<SecretMeta> for StoredMeta {
    fn from(SecretMeta { current, versions }: SecretMeta) -> Self {
        Self { current, versions }
    }
}

#[cfg(test)]
mod tests;
