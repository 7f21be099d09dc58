//! What a sealed record is bound to: its place. Invariant: two different places have different canonical bytes, since
//! every variable field carries its length. Absent: anything that may change while the record stays (paths, names).

use crate::codec::Writer;

const FORMAT: u8 = 1;

/// The labels, so that a record of one kind never opens as another.
pub mod label {
    /// A data key: its inner blob and its wraps.
    pub const DATA_KEY: &str = "keystead/v1/data-key";
    /// One version of a secret.
    pub const SECRET_VERSION: &str = "keystead/v1/secret-version";
    /// The states of a secret's versions.
    pub const SECRET_META: &str = "keystead/v1/secret-meta";
    /// A directory entry.
    pub const DIRECTORY: &str = "keystead/v1/directory";
    /// A principal.
    pub const PRINCIPAL: &str = "keystead/v1/principal";
    /// From a certificate's name to a principal.
    pub const PRINCIPAL_INDEX: &str = "keystead/v1/principal-index";
    /// A day's key of audit bodies.
    pub const AUDIT_KEY: &str = "keystead/v1/audit-key";
    /// The look-up keys.
    pub const KEYRING: &str = "keystead/v1/keyring";
    /// A target.
    pub const TARGET: &str = "keystead/v1/target";
    /// The login by which the vault works in a target.
    pub const TARGET_LOGIN: &str = "keystead/v1/target-login";
    /// A role.
    pub const ROLE: &str = "keystead/v1/role";
    /// A static role.
    pub const STATIC_ROLE: &str = "keystead/v1/static-role";
    /// A password of a static role.
    pub const STATIC_LOGIN: &str = "keystead/v1/static-login";
    /// A lease.
    pub const LEASE: &str = "keystead/v1/lease";
    /// A revocation of many leases.
    pub const LEASE_JOB: &str = "keystead/v1/lease-job";
    /// Records of kinds without a label of their own.
    pub const OTHER_RECORD: &str = "keystead/v1/other-record";
    /// A policy.
    pub const POLICY: &str = "keystead/v1/policy";
    /// A session.
    pub const SESSION: &str = "keystead/v1/session";
    /// The outcome kept for a request id.
    pub const REQUEST: &str = "keystead/v1/request";
    /// A system key or a look-up key, under a data key of its own.
    pub const SYSTEM_KEY: &str = "keystead/v1/system-key";
    /// The body of an audit entry.
    pub const AUDIT_BODY: &str = "keystead/v1/audit-body";
}

/// The place that a sealed record is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aad<'a> {
    /// What kind of record this is: one of [`label`].
    pub label: &'static str,
    /// The vault.
    pub vault: [u8; 16],
    /// The tenant.
    pub tenant: &'a str,
    /// The keyspace in which it is stored.
    pub keyspace: &'a str,
    /// Its id or key there.
    pub record: &'a [u8],
    /// Its version; 0 where there are none.
    pub version: u64,
}

impl Aad<'_> {
    /// The canonical bytes.
    pub fn canonical(&self) -> Vec<u8> {
        Writer::new()
            .u8(FORMAT)
            .text(self.label)
            .raw(&self.vault)
            .text(self.tenant)
            .text(self.keyspace)
            .bytes(self.record)
            .u64(self.version)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn different_places_have_different_bytes(
            a in (any::<[u8; 2]>(), "[ab]{0,3}", "[ab]{0,3}", prop::collection::vec(0u8..2, 0..3), 0u64..2),
            b in (any::<[u8; 2]>(), "[ab]{0,3}", "[ab]{0,3}", prop::collection::vec(0u8..2, 0..3), 0u64..2),
        ) {
            let bytes = |(vault, tenant, keyspace, record, version): &([u8; 2], String, String, Vec<u8>, u64)| {
                let mut id = [0; 16];
                id[..2].copy_from_slice(vault);
                Aad { label: label::POLICY, vault: id, tenant, keyspace, record, version: *version }.canonical()
            };
            prop_assert_eq!(a == b, bytes(&a) == bytes(&b));
        }
    }

    #[test]
    fn moving_a_character_from_one_field_to_the_next_changes_the_bytes() {
        let aad = |tenant, keyspace| Aad {
            label: label::POLICY,
            vault: [0; 16],
            tenant,
            keyspace,
            record: &[],
            version: 0,
        };
        assert_ne!(aad("ab", "c").canonical(), aad("a", "bc").canonical());
    }
}
