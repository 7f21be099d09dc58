//! Keystead's pure decisions: names, records, state machines and the policy engine.
//!
//! Invariant: nothing here performs I/O, reads a clock, draws randomness or awaits; time and identity are
//! arguments. No type here ever holds secret bytes, so all of them may be printed.
//! Absent on purpose: encryption (`keystead-crypto`), storage keys (`keystead-storage`), the order of steps
//! in a request (`keystead-core`).

pub mod certificate_matcher;
pub mod id;
pub mod lease;
pub mod name;
pub mod path;
pub mod policy;
pub mod principal;
pub mod rights;
pub mod role;
pub mod seal;
pub mod secret_value;
pub mod secret_version;
pub mod session;
pub mod static_role;
pub mod target;
pub mod time;

pub use certificate_matcher::{CertificateMatcher, MatcherError};
pub use id::{CeremonyId, IdError, RecordId, RequestId, RequestIdError, VaultId};
pub use name::{GroupName, Name, NameError, NameProblem, NodeName, PolicyName, TenantName};
pub use path::{FolderPath, PathError, SecretPath, Segment};
pub use policy::{
    AccessContext, AccessRequest, Action, Decision, Method, Policies, PolicyError, Resource, Verdict,
};
pub use principal::{PrincipalError, PrincipalKind, PrincipalName, PrincipalRecord};
pub use seal::{Entered, Quorum, QuorumError, ShareNumber, UnsealProgress};
pub use secret_value::{FieldName, MAX_FIELDS, MAX_VALUE_BYTES};
pub use secret_version::{SecretMeta, VersionError, VersionMeta, VersionState};
pub use session::{AuthMethod, Cidr, CidrError, SessionBinding, SessionRecord};
pub use time::{TimeError, Ttl, UnixMillis, effective_ttl};
