//! Every keyspace and every key that the vault stores, on one page. Invariant: numbers are big-endian and ids have a fixed
//! length, so no two encoders of a keyspace can give the same key. Absent: names and paths, which reach storage as HMACs only.

use std::fmt;

/// An ordered space of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Keyspace {
    /// The format record of the store.
    Meta,
    /// The seal record.
    Seal,
    /// Wrapped data keys, by data-key id.
    DataKeys,
    /// Sealed secret versions, by secret id and version.
    Secrets,
    /// Version lists of secrets, by secret id.
    SecretMeta,
    /// Directory entries, by parent id and hidden name.
    Directory,
    /// Principal records, by hidden name.
    Principals,
    /// Principals by hidden certificate matcher.
    PrincipalIndex,
    /// Policies, by hidden name.
    Policies,
    /// Sessions, by hidden token.
    Sessions,
    /// Request ids already answered, hidden.
    Requests,
    /// System data keys, each sealed under a data key of its own, by that key's id.
    SystemKeys,
    /// Markers of audited changes that took effect, by the sequence of their intent.
    Intents,
    /// Keys of audit bodies, by day.
    AuditKeys,
    /// Leases, by lease id.
    Leases,
    /// Leases by what is due when, and by owner, role, target and session; revocations of many.
    LeaseIndex,
    /// Roles, by hidden name.
    Roles,
    /// Targets, by hidden name.
    Targets,
    /// Static roles, by hidden name; and whose each of their logins is.
    StaticRoles,
}

impl Keyspace {
    /// All of them.
    pub const ALL: [Self; 19] = [
        Self::Meta,
        Self::Seal,
        Self::DataKeys,
        Self::Secrets,
        Self::SecretMeta,
        Self::Directory,
        Self::Principals,
        Self::PrincipalIndex,
        Self::Policies,
        Self::Sessions,
        Self::Requests,
        Self::SystemKeys,
        Self::Intents,
        Self::AuditKeys,
        Self::Leases,
        Self::LeaseIndex,
        Self::Roles,
        Self::Targets,
        Self::StaticRoles,
    ];

    /// The name that engines and authenticated data use. It never changes.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Seal => "seal",
            Self::DataKeys => "data_keys",
            Self::Secrets => "secrets",
            Self::SecretMeta => "secret_meta",
            Self::Directory => "directory",
            Self::Principals => "principals",
            Self::PrincipalIndex => "principal_index",
            Self::Policies => "policies",
            Self::Sessions => "sessions",
            Self::Requests => "requests",
            Self::SystemKeys => "system_keys",
            Self::Intents => "intents",
            Self::AuditKeys => "audit_keys",
            Self::Leases => "leases",
            Self::LeaseIndex => "lease_index",
            Self::Roles => "roles",
            Self::Targets => "targets",
            Self::StaticRoles => "static_roles",
        }
    }
}

impl fmt::Display for Keyspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// [`Keyspace::Meta`]: the format record, read before anything else.
#[must_use]
pub fn meta_format() -> Vec<u8> {
    b"format".to_vec()
}

/// [`Keyspace::Meta`]: the sealed look-up keys.
#[must_use]
pub fn meta_keyring() -> Vec<u8> {
    b"keyring".to_vec()
}

/// [`Keyspace::Meta`]: the audit sequence below which every intent has its outcome.
#[must_use]
pub fn meta_audit_low_water() -> Vec<u8> {
    b"audit-low-water".to_vec()
}

/// [`Keyspace::Meta`]: the sealed ledger of keys and their use.
#[must_use]
pub fn meta_key_ledger() -> Vec<u8> {
    b"key-ledger".to_vec()
}

/// [`Keyspace::Meta`]: how far the pass over all data keys is, sealed.
#[must_use]
pub fn meta_rewrap() -> Vec<u8> {
    b"rewrap".to_vec()
}

/// [`Keyspace::Meta`]: there while data keys were made that lack a way.
#[must_use]
pub fn meta_gaps() -> Vec<u8> {
    b"gaps".to_vec()
}

/// [`Keyspace::Meta`]: what [`meta_refused_pin`] begins with.
#[must_use]
pub fn meta_refused_pins() -> Vec<u8> {
    b"refused-pin/".to_vec()
}

/// [`Keyspace::Meta`]: there once the token of this serial refused the PIN of a vault that opens by itself.
#[must_use]
pub fn meta_refused_pin(serial: &str) -> Vec<u8> {
    [meta_refused_pins().as_slice(), serial.as_bytes()].concat()
}

/// [`Keyspace::Meta`]: how far the pass over all system records is, sealed.
#[must_use]
pub fn meta_reseal() -> Vec<u8> {
    b"reseal".to_vec()
}

/// [`Keyspace::Intents`]: the intent's audit sequence.
#[must_use]
pub fn intent(sequence: u64) -> Vec<u8> {
    sequence.to_be_bytes().to_vec()
}

/// The sequence in a key of [`Keyspace::Intents`].
#[must_use]
pub fn intent_in(key: &[u8]) -> Option<u64> {
    <[u8; 8]>::try_from(key).ok().map(u64::from_be_bytes)
}

/// [`Keyspace::AuditKeys`]: days since 1970.
#[must_use]
pub fn audit_key(day: u32) -> Vec<u8> {
    day.to_be_bytes().to_vec()
}

/// [`Keyspace::Seal`]: the current seal record.
#[must_use]
pub fn seal_record() -> Vec<u8> {
    b"current".to_vec()
}

/// [`Keyspace::Seal`]: what lets the vault open by itself.
#[must_use]
pub fn seal_auto() -> Vec<u8> {
    b"auto".to_vec()
}

/// [`Keyspace::DataKeys`]: data-key id.
#[must_use]
pub fn data_key(id: &[u8; 16]) -> Vec<u8> {
    id.to_vec()
}

/// [`Keyspace::Secrets`]: secret id ‖ version u64.
#[must_use]
pub fn secret(id: &[u8; 16], version: u64) -> Vec<u8> {
    [id.as_slice(), &version.to_be_bytes()].concat()
}

/// [`Keyspace::Secrets`]: the prefix of all versions of a secret.
#[must_use]
pub fn secret_prefix(id: &[u8; 16]) -> Vec<u8> {
    id.to_vec()
}

/// [`Keyspace::SecretMeta`]: secret id.
#[must_use]
pub fn secret_meta(id: &[u8; 16]) -> Vec<u8> {
    id.to_vec()
}

/// [`Keyspace::Directory`]: an entry key, which is parent id ‖ HMAC(name key, parent id ‖ segment) already.
#[must_use]
pub fn directory(entry_key: &[u8]) -> Vec<u8> {
    entry_key.to_vec()
}

/// [`Keyspace::Directory`]: the prefix of all entries of a folder.
#[must_use]
pub fn directory_prefix(parent: &[u8; 16]) -> Vec<u8> {
    parent.to_vec()
}

/// [`Keyspace::Principals`]: look-up tag of the principal's name.
#[must_use]
pub fn principal(tag: &[u8; 33]) -> Vec<u8> {
    tag.to_vec()
}

/// [`Keyspace::PrincipalIndex`]: look-up tag of a certificate matcher.
#[must_use]
pub fn principal_index(tag: &[u8; 33]) -> Vec<u8> {
    tag.to_vec()
}

/// [`Keyspace::Policies`]: look-up tag of the policy's name.
#[must_use]
pub fn policy(tag: &[u8; 33]) -> Vec<u8> {
    tag.to_vec()
}

/// [`Keyspace::Sessions`]: look-up tag of the token.
#[must_use]
pub fn session(tag: &[u8; 33]) -> Vec<u8> {
    tag.to_vec()
}

/// [`Keyspace::Requests`]: look-up tag of principal and request id.
#[must_use]
pub fn request(tag: &[u8; 33]) -> Vec<u8> {
    tag.to_vec()
}

/// [`Keyspace::Meta`]: how far leases are: their time, and the minutes that are done with, sealed.
#[must_use]
pub fn meta_leases() -> Vec<u8> {
    b"leases".to_vec()
}

/// [`Keyspace::Roles`]: look-up tag of the role's name.
#[must_use]
pub fn role(tag: &[u8; 33]) -> Vec<u8> {
    tag.to_vec()
}

/// [`Keyspace::Targets`]: look-up tag of the target's name.
#[must_use]
pub fn target(tag: &[u8; 33]) -> Vec<u8> {
    tag.to_vec()
}

/// [`Keyspace::StaticRoles`]: what every static role begins with.
pub const STATIC_ROLES: &[u8] = b"r";

/// [`Keyspace::StaticRoles`]: a static role, by the look-up tag of its name.
#[must_use]
pub fn static_role(tag: &[u8; 33]) -> Vec<u8> {
    [STATIC_ROLES, tag].concat()
}

/// [`Keyspace::StaticRoles`]: whose a login is, by the look-up tag of its target and name.
#[must_use]
pub fn static_login(tag: &[u8; 33]) -> Vec<u8> {
    [b"l", tag.as_slice()].concat()
}

/// [`Keyspace::Leases`]: lease id.
#[must_use]
pub fn lease(id: &[u8; 16]) -> Vec<u8> {
    id.to_vec()
}

/// The shards of the index by time: writers of one minute spread over them.
pub const LEASE_SHARDS: u8 = 16;

/// The shard of a lease.
#[must_use]
pub const fn lease_shard(id: &[u8; 16]) -> u8 {
    let [first, ..] = *id;
    first % LEASE_SHARDS
}

/// [`Keyspace::LeaseIndex`]: when a lease is due: `d` ‖ shard ‖ minutes since 1970 u32 ‖ lease id.
#[must_use]
pub fn lease_due(minute: u32, id: &[u8; 16]) -> Vec<u8> {
    [b"d".as_slice(), &[lease_shard(id)], &minute.to_be_bytes(), id].concat()
}

/// [`Keyspace::LeaseIndex`]: where the minutes from `minute` on begin in a shard.
#[must_use]
pub fn lease_due_from(shard: u8, minute: u32) -> Vec<u8> {
    [b"d".as_slice(), &[shard], &minute.to_be_bytes()].concat()
}

/// [`Keyspace::LeaseIndex`]: what comes behind one lease in another shard of the index by time.
#[must_use]
pub fn lease_due_after(shard: u8, minute: u32, id: &[u8; 16]) -> Vec<u8> {
    [b"d".as_slice(), &[shard], &minute.to_be_bytes(), id, &[0]].concat()
}

/// [`Keyspace::LeaseIndex`]: the end of a shard of the index by time.
#[must_use]
pub fn lease_due_end(shard: u8) -> Vec<u8> {
    [b"d".as_slice(), &[shard.saturating_add(1)]].concat()
}

/// The minute and the lease in a key of the index by time.
#[must_use]
pub fn lease_due_in(key: &[u8]) -> Option<(u32, [u8; 16])> {
    let [b'd', _, rest @ ..] = key else { return None };
    let (minute, id) = rest.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*minute), id.try_into().ok()?))
}

/// [`Keyspace::LeaseIndex`]: the prefix of an owner's leases: `o` ‖ look-up tag of the principal.
#[must_use]
pub fn leases_of_owner(tag: &[u8; 33]) -> Vec<u8> {
    [b"o".as_slice(), tag].concat()
}

/// [`Keyspace::LeaseIndex`]: the prefix of a session's leases: `s` ‖ its key in [`Keyspace::Sessions`], which has 33 bytes.
#[must_use]
pub fn leases_of_session(session: &[u8]) -> Vec<u8> {
    [b"s", session].concat()
}

/// [`Keyspace::LeaseIndex`]: the prefix of a role's leases: `r` ‖ role id.
#[must_use]
pub fn leases_of_role(id: &[u8; 16]) -> Vec<u8> {
    [b"r".as_slice(), id].concat()
}

/// [`Keyspace::LeaseIndex`]: the prefix of a target's leases: `t` ‖ target id.
#[must_use]
pub fn leases_of_target(id: &[u8; 16]) -> Vec<u8> {
    [b"t".as_slice(), id].concat()
}

/// [`Keyspace::LeaseIndex`]: one lease under one of the prefixes above.
#[must_use]
pub fn lease_under(prefix: &[u8], id: &[u8; 16]) -> Vec<u8> {
    [prefix, id].concat()
}

/// The lease in a key under one of the prefixes above.
#[must_use]
pub fn lease_under_in(key: &[u8]) -> Option<[u8; 16]> {
    key.last_chunk::<16>().copied()
}

/// [`Keyspace::LeaseIndex`]: a revocation of many leases that is under way: `j` ‖ its id.
#[must_use]
pub fn lease_job(id: &[u8; 16]) -> Vec<u8> {
    [b"j".as_slice(), id].concat()
}

/// [`Keyspace::LeaseIndex`]: the prefix of revocations of many leases.
#[must_use]
pub fn lease_jobs() -> Vec<u8> {
    b"j".to_vec()
}

/// [`Keyspace::SystemKeys`]: key id.
#[must_use]
pub fn system_key(id: &[u8; 16]) -> Vec<u8> {
    id.to_vec()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_keyspace_has_its_own_name() {
        let names: BTreeSet<_> = Keyspace::ALL.iter().map(|keyspace| keyspace.name()).collect();
        assert_eq!(names.len(), Keyspace::ALL.len());
        assert!(names.iter().all(|name| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')));
    }

    #[test]
    fn leases_sort_by_their_minute_within_a_shard() {
        let (a, b) = ([0x11; 16], [0x21; 16]);
        assert_eq!((lease_shard(&a), lease_shard(&b)), (1, 1));
        let keys = [lease_due(1, &b), lease_due(255, &a), lease_due(256, &a)];
        assert!(keys.is_sorted());
        assert_eq!(lease_due_in(&keys[1]), Some((255, a)));
        assert!(keys[0] < lease_due_from(1, 255) && lease_due_from(1, 255) < keys[1]);
        assert_eq!(lease_due_in(&lease_under(&leases_of_role(&a), &b)), None);
        assert_eq!(lease_under_in(&lease_under(&leases_of_owner(&[7; 33]), &b)), Some(b));
    }

    #[test]
    fn versions_sort_by_number_within_their_secret() {
        let keys = [secret(&[1; 16], 1), secret(&[1; 16], 255), secret(&[1; 16], 256), secret(&[2; 16], 0)];
        assert!(keys.is_sorted());
        assert!(
            keys[2].starts_with(&secret_prefix(&[1; 16])) && !keys[3].starts_with(&secret_prefix(&[1; 16]))
        );
        assert_eq!(keys[2][16..], [0, 0, 0, 0, 0, 0, 1, 0]);
    }
}
