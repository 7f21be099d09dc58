//! How what the vault makes in a cluster is called.
//!
//! Invariant: every name begins with the mark of vault and database, fits an identifier, and says whether it is a login or a
//! group: a role's name has no underscore, so no login is spelled like a group. Roles are the whole cluster's: several vaults
//! in one cluster do not meet, nor do several databases of one vault, so that who has the one's admin login has nothing of the
//! other.

use data_encoding::HEXLOWER;
use keystead_domain::id::RecordId;
use keystead_domain::rights::postgres::PgName;
use keystead_domain::time::UnixMillis;
use keystead_domain::{Name, VaultId};
use sha2::{Digest, Sha256};

/// Bytes of a role's name that a login shows: what 63 leave.
const SHOWN: usize = 18;
const ID_DIGITS: usize = 32;

/// The names of one vault in one database.
#[derive(Debug, Clone)]
pub(super) struct Names {
    tag: String,
    prefix: String,
    schema: String,
    owner: String,
}

impl Names {
    pub(super) fn new(vault: VaultId, database: &PgName) -> Self {
        let hash = Sha256::new().chain_update(vault.0).chain_update(database.as_str()).finalize();
        let [a, b, c, d, ..] = <[u8; 32]>::from(hash);
        let tag = HEXLOWER.encode(&[a, b, c, d]);
        Self {
            prefix: format!("ks_{tag}_"),
            schema: format!("keystead_{tag}"),
            owner: format!("keystead_{tag}_owner"),
            tag,
        }
    }

    /// The mark: eight hexadecimal digits of a hash of the vault's id and the database's name.
    pub(super) fn tag(&self) -> &str {
        &self.tag
    }

    /// How every login and group begins.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The schema of the set-up functions.
    pub(super) fn schema(&self) -> &str {
        &self.schema
    }

    /// The role that they run as.
    pub(super) fn owner(&self) -> &str {
        &self.owner
    }

    /// The login of a lease.
    pub(super) fn login(&self, role: &Name, lease: RecordId) -> String {
        let shown = role.as_str().get(..SHOWN).unwrap_or(role.as_str());
        format!("{}{shown}_{lease}", self.prefix)
    }

    /// The group of a role.
    pub(super) fn group(&self, role: RecordId) -> String {
        format!("{}{role}", self.group_prefix())
    }

    /// How every group begins.
    pub(super) fn group_prefix(&self) -> String {
        format!("{}g__", self.prefix)
    }

    /// A login and a group for a probe that begins at `now`. No role's name begins with a hyphen, so such a login is no lease's;
    /// the time in the name tells whose probe was cut off.
    pub(super) fn probe(&self, now: UnixMillis, random: [u8; 4]) -> (String, String) {
        let id = format!("{:024x}{}", now.0, HEXLOWER.encode(&random));
        (format!("{}-probe_{id}", self.prefix), format!("{}{id}", self.group_prefix()))
    }

    /// When the probe began that a login or group is of; nothing for others.
    pub(super) fn probed_at(&self, name: &str) -> Option<UnixMillis> {
        let rest = name.strip_prefix(&self.prefix)?;
        let id = rest.strip_prefix("-probe_").or_else(|| rest.strip_prefix("g__"))?;
        let (time, _) = id.split_at_checked(id.len().checked_sub(8)?)?;
        // Ids of roles are random: none begins with so many zeros.
        let millis = time.strip_prefix("000000000000").filter(|_| id.len() == ID_DIGITS)?;
        u64::from_str_radix(millis, 16).ok().map(UnixMillis)
    }

    /// The lease of a login; nothing for names of another form.
    pub(super) fn lease(&self, login: &str) -> Option<RecordId> {
        let rest = login.strip_prefix(&self.prefix)?;
        let (shown, id) = rest.split_at_checked(rest.len().checked_sub(ID_DIGITS)?)?;
        let shown = shown.strip_suffix('_')?;
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if shown.is_empty() || shown.starts_with('-') || shown.len() > SHOWN || !shown.bytes().all(plain) {
            return None;
        }
        id.parse().ok()
    }
}

/// Whether a name carries the mark of any vault and database: a login, a group or an owner that some vault made.
pub(super) fn is_a_vaults(name: &str) -> bool {
    const DIGITS: usize = 8;
    let rest = name.strip_prefix("ks_").or_else(|| name.strip_prefix("keystead_"));
    rest.and_then(|rest| rest.split_at_checked(DIGITS)).is_some_and(|(tag, rest)| {
        tag.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
            && (rest.is_empty() || rest.starts_with('_'))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn database() -> PgName {
        PgName::parse("shop").unwrap()
    }

    #[test]
    fn what_a_probe_makes_is_no_leases_and_tells_its_time() {
        let names = Names::new(VaultId([7; 16]), &database());
        for now in [0, 1_800_000_000_000] {
            let (login, group) = names.probe(UnixMillis(now), [1, 2, 3, 4]);
            assert!(login.len() <= 63 && group.len() <= 63, "{login}");
            assert_eq!(names.lease(&login), None);
            assert_eq!(names.probed_at(&login), Some(UnixMillis(now)));
            assert_eq!(names.probed_at(&group), Some(UnixMillis(now)));
        }
        assert_eq!(names.probed_at(&names.group(RecordId([0x5a; 16]))), None);
        assert_eq!(names.probed_at(&names.login(&Name::parse("probe").unwrap(), RecordId([0; 16]))), None);
    }

    #[test]
    fn what_any_vault_made_is_known_by_its_name() {
        let names = Names::new(VaultId([9; 16]), &database());
        let role = Name::parse("orders").unwrap();
        for ours in
            [names.login(&role, RecordId([1; 16])), names.group(RecordId([1; 16])), names.owner().to_owned()]
        {
            assert!(is_a_vaults(&ours), "{ours}");
        }
        for other in [
            "keystead",
            "ks_orders",
            "ledger",
            "keystead_admin",
            "ks_0123456_x",
            "ks_0123456G_x",
            "ks_01234567x",
        ] {
            assert!(!is_a_vaults(other), "{other}");
        }
    }

    #[test]
    fn another_vault_or_database_has_another_mark() {
        let other = PgName::parse("other").unwrap();
        let tags = [(7, database()), (8, database()), (7, other)]
            .map(|(vault, database)| Names::new(VaultId([vault; 16]), &database).tag().to_owned());
        assert!(tags[0] != tags[1] && tags[0] != tags[2] && tags[1] != tags[2], "{tags:?}");
    }

    proptest! {
        #[test]
        fn a_login_names_its_lease_and_is_no_group(role in "[a-z0-9][a-z0-9-]{0,62}", lease: [u8; 16], vault: [u8; 16]) {
            let names = Names::new(VaultId(vault), &database());
            let lease = RecordId(lease);
            let login = names.login(&Name::parse(&role).unwrap(), lease);
            prop_assert!(login.len() <= 63);
            prop_assert_eq!(names.lease(&login), Some(lease));
            prop_assert_eq!(names.lease(&names.group(lease)), None);
            prop_assert_ne!(login, names.group(lease));
        }

        #[test]
        fn other_names_belong_to_no_lease(text in "\\PC{0,70}") {
            let names = Names::new(VaultId([7; 16]), &database());
            prop_assert_eq!(names.lease(&text), None);
            prop_assert_eq!(names.lease(&format!("{}{text}", names.prefix())), None);
        }
    }
}
