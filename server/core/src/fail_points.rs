//! Places behind each durable step of credentials, where a test has the server end as `kill -9` would.
//!
//! Invariant: without the feature `failpoints` nothing of this is compiled in, and with it no release can be built. Absent: any
//! other failure than the end; faults of store and HSM have their own decorators.

#[cfg(all(feature = "failpoints", not(debug_assertions)))]
compile_error!(
    "fail points end the server at the word of its environment: they are for tests, not for a release"
);

/// What is on disk, or done in the target, and nothing that comes after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The lease is stored as Issuing; the target was not asked.
    IssueLeased,
    /// The target made the login, and it was read back; the lease is Issuing.
    IssueMade,
    /// The lease is stored as Active; the outcome is not recorded.
    IssueActive,
    /// The outcome is recorded; nobody has the answer.
    IssueRecorded,
    /// The same request came again, and its lease has the new handle; the target was not asked.
    ReissueStored,
    /// The target gave the login its new password; nobody has the answer.
    ReissueMade,
    /// Somebody's wish to revoke is stored; its outcome is not recorded.
    RevokeAsked,
    /// The lease is stored as Revoking; the target was not asked.
    RevokeBegun,
    /// The target removed the login; the lease is Revoking.
    RevokeRemoved,
    /// The lease is stored as Revoked; the outcome is not recorded.
    RevokeClosed,
    /// The new password of an admin login is stored beside the old one; the target was not asked.
    RotatePending,
    /// The target takes the new password; the stored one is the old.
    RotateTaken,
    /// The new password is the stored one; the old one is not purged.
    RotateAdopted,
}

impl Step {
    /// Every one.
    pub const ALL: [Self; 13] = [
        Self::IssueLeased,
        Self::IssueMade,
        Self::IssueActive,
        Self::IssueRecorded,
        Self::ReissueStored,
        Self::ReissueMade,
        Self::RevokeAsked,
        Self::RevokeBegun,
        Self::RevokeRemoved,
        Self::RevokeClosed,
        Self::RotatePending,
        Self::RotateTaken,
        Self::RotateAdopted,
    ];

    /// Its name in the variable `FAILPOINTS`, where `=return` behind it arms it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::IssueLeased => "issue.leased",
            Self::IssueMade => "issue.made",
            Self::IssueActive => "issue.active",
            Self::IssueRecorded => "issue.recorded",
            Self::ReissueStored => "reissue.stored",
            Self::ReissueMade => "reissue.made",
            Self::RevokeAsked => "revoke.asked",
            Self::RevokeBegun => "revoke.begun",
            Self::RevokeRemoved => "revoke.removed",
            Self::RevokeClosed => "revoke.closed",
            Self::RotatePending => "rotate.pending",
            Self::RotateTaken => "rotate.taken",
            Self::RotateAdopted => "rotate.adopted",
        }
    }
}

/// The step is done. The process ends here if a test armed it.
#[cfg(feature = "failpoints")]
pub fn after(step: Step) {
    // Not a panic, which the server survives, nor an exit, which runs what a kill would not.
    fail::fail_point!(step.name(), |_| std::process::abort());
}

/// The step is done. The process ends here if a test armed it.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub fn after(_: Step) {}
