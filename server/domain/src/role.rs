//! Roles: what one service needs in a target, declared.
//!
//! Invariant: a role has an id of its own, made with it; leases and the group in the target carry the id, so that a role
//! defined anew under a name inherits nothing.

use serde::{Deserialize, Serialize};

use crate::id::RecordId;
use crate::name::Name;
use crate::rights::postgres::PostgresRole;
use crate::target::TargetKind;
use crate::time::{Ttl, UnixMillis};

/// Live leases that a role may be told to allow at most.
pub const MAX_LIVE: u32 = 100_000;

/// What a login of a role may do, by the kind of its target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Declaration {
    /// In a PostgreSQL database.
    Postgres(PostgresRole),
}

impl Declaration {
    /// The kind of target it is for.
    pub const fn kind(&self) -> TargetKind {
        match self {
            Self::Postgres(_) => TargetKind::Postgres,
        }
    }
}

/// What happens when the target gives a role's logins more than it declares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum OnExcess {
    /// Nothing is issued, and the error lists the excess.
    #[default]
    Refuse,
    /// It is issued, and the excess is in the log and in the answer.
    Warn,
}

/// A role as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleRecord {
    /// Its own id.
    pub id: RecordId,
    /// Its name.
    pub name: Name,
    /// The target, by name and id.
    pub target: Name,
    /// The target's id when the role was defined.
    pub target_id: RecordId,
    /// What its logins may do.
    pub declaration: Declaration,
    /// How long a lease lives if nobody says.
    pub default_ttl: Ttl,
    /// How long a lease lives at most, renewed or not.
    pub max_ttl: Ttl,
    /// Live leases at most: 1 to [`MAX_LIVE`].
    pub max_live: u32,
    /// What happens on excess.
    pub on_excess: OnExcess,
    /// When it was first defined.
    pub created: UnixMillis,
    /// When this definition was written.
    pub changed: UnixMillis,
}
