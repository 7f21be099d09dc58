//! Making a new vault: keys in the token, shares, the seal record, the first operators.
//!
//! Invariant: the audit log is proven writable before a key is made; everything that lies in the store appears in one
//! batch; shares leave only once the outcome is recorded, and otherwise the vault is unmade.

#[cfg(test)]
mod tests;
mod unmaking;

use std::collections::HashMap;
use std::sync::Arc;

use keystead_audit::EntryKind;
use keystead_crypto::aad::label;
use keystead_crypto::arena::LockedKey;
use keystead_crypto::codec::Writer;
use keystead_crypto::envelope::Q;
use keystead_crypto::mac::LookupKey;
use keystead_crypto::names::NameKey;
use keystead_crypto::ports::{Hsm, HsmKey, HsmKeyPurpose};
use keystead_crypto::record::{self, SystemKey};
use keystead_crypto::recovery::{self, RecoveryRecipient};
use keystead_crypto::seal_record::{
    MAX_WAYS, QBox, RecoveryWay, SealHeader, SealRecord, TokenWay, Way, WayBoxes,
};
use keystead_crypto::secret::SecretBytes;
use keystead_crypto::shamir::{self, Sharing};
use keystead_crypto::share::{SCHEME_GF256, Share};
use keystead_crypto::token::Token;
use keystead_crypto::unseal_key::UnsealKey;
use keystead_domain::CertificateMatcher;
use keystead_domain::id::VaultId;
use keystead_domain::name::{GroupName, PolicyName, TenantName};
use keystead_domain::principal::{PrincipalName, PrincipalRecord};
use keystead_domain::seal::Quorum;
use keystead_domain::session::{AuthMethod, SessionBinding, SessionRecord};
use keystead_domain::time::UnixMillis;
use keystead_storage::{Batch, Keyspace, Precondition, StorageError, keyspace};
use rand_core::Rng;
use tokio::sync::oneshot;

use self::unmaking::destroy_keys;
use crate::audit_trail::sealer::day_of;
use crate::audit_trail::{ClearCaller, ClearEntry};
use crate::auth::{BOOTSTRAP_LIFE_MILLIS, seal_principal, seal_session, token_tag};
use crate::error::VaultError;
use crate::keys::link::Link;
use crate::keys::systems::Systems;
use crate::keys::ways::Ways;
use crate::keys::{CreateError, KeyParts, Keys, corrupt, fresh_id, rng};
use crate::policies::{PolicyRecord, seal_policy};
use crate::request::RequestContext;
use crate::seal::{KEYRING_FORMAT, seal_error};
use crate::vault::Vault;

/// The group whose members may do everything, and the policy that says so.
const ADMINS: &str = "admins";
const ADMINS_POLICY: &str = "admins";
const ADMINS_TEXT: &str = "// Made by init: members of the group `admins` may do everything.\n\
permit (principal in Keystead::Group::\"admins\", action, resource);\n";
/// Operators that init registers at most: their records fit one batch.
const MAX_OPERATORS: usize = 16;

/// What a new vault shall be.
pub struct Init {
    /// Shares to make and shares needed.
    pub quorum: Quorum,
    /// The token's PIN.
    pub pin: SecretBytes,
    /// Operators with full rights; without any, a bootstrap token is made.
    pub operators: Vec<(PrincipalName, CertificateMatcher)>,
    /// Keys kept offline, with which and a quorum the vault opens when the token is lost.
    pub recovery: Vec<RecoveryRecipient>,
    /// What the operator says of losing the token.
    pub loss: TokenLoss,
}

/// What the operator says of losing the token, which would lose everything.
pub enum TokenLoss {
    /// It is backed up by its vendor's means.
    BackedUp(String),
    /// A key that is kept offline opens the data then.
    Recoverable,
    /// It is accepted.
    Accepted,
}

/// A new vault.
pub struct Initialized {
    /// Its id.
    pub vault: VaultId,
    /// Its shares.
    pub shares: Vec<Share>,
    /// The bootstrap admin's token and its end.
    pub bootstrap: Option<(Token, UnixMillis)>,
    /// Its seal record, to be kept beside backups.
    pub seal_record: Vec<u8>,
}

impl Vault {
    /// Makes a new vault in an empty store.
    ///
    /// # Errors
    /// `OperatorOnly`, `AlreadyInitialized`, `NotEmpty`, `AuditOrigin`, `Invalid`, and those of HSM, log and store; then
    /// nothing is left behind.
    pub async fn init(self: &Arc<Self>, ctx: &RequestContext, init: Init) -> Result<Initialized, VaultError> {
        let caller = self.check_operator(ctx, "init")?;
        check_operators(&init.operators)?;
        check_recovery(&init.recovery)?;
        let vault = Arc::clone(self);
        let (answer, answered) = oneshot::channel();
        tokio::spawn(async move {
            let _one_at_a_time = vault.ceremony.lock().await;
            if let Err(Ok(made)) = answer.send(vault.init_here(&caller, &init).await) {
                vault.abandon(caller, made.vault, &init.pin).await;
            }
        });
        answered.await.unwrap_or(Err(VaultError::Interrupted { what: "init" }))
    }

    async fn init_here(&self, caller: &ClearCaller, init: &Init) -> Result<Initialized, VaultError> {
        self.check_unused().await?;
        let mut id = [0; 16];
        rng().fill_bytes(&mut id);
        let id = VaultId(id);
        let detail = || {
            vec![
                ("vault", id.to_string()),
                ("threshold", init.quorum.threshold().to_string()),
                ("shares", init.quorum.shares().to_string()),
                (
                    "token_loss",
                    match &init.loss {
                        TokenLoss::BackedUp(statement) => format!("backed up: {statement}"),
                        TokenLoss::Recoverable => "recoverable offline".to_owned(),
                        TokenLoss::Accepted => "accepted".to_owned(),
                    },
                ),
            ]
        };
        let (log, clock) = (&self.parts.audit, self.parts.clock.as_ref());
        let entry = |kind, outcome, intent| {
            ClearEntry {
                kind,
                action: "system:init",
                outcome,
                caller: Some(caller.clone()),
                intent,
                detail: detail(),
            }
            .record(log, clock)
        };
        let intent = entry(EntryKind::Intent, "", None).await?;
        let made = self.make(id, init).await;
        let outcome = made.as_ref().map_or_else(VaultError::reason, |_| "ok");
        let recorded = entry(EntryKind::Outcome, outcome, Some(intent)).await;
        self.parts.hsm.logout().await;
        match (made, recorded) {
            (Ok(initialized), Ok(_)) => {
                tracing::info!(vault = %id, "a vault was made; it is sealed");
                Ok(initialized)
            }
            (Err(error), _) => {
                tracing::warn!(%error, "no vault was made");
                Err(error)
            }
            (Ok(_), Err(error)) => {
                self.unmake(id, &init.pin).await?;
                Err(error)
            }
        }
    }

    async fn make(&self, id: VaultId, init: &Init) -> Result<Initialized, VaultError> {
        let hsm = Arc::clone(&self.parts.hsm);
        let token = hsm.login(SecretBytes::copy_from(init.pin.expose())).await?;
        let made = self.make_with(id, init, token.serial, &hsm).await;
        match &made {
            Ok(_) => {}
            // It may be in the store all the same.
            Err(VaultError::Storage(StorageError::UnknownOutcome { .. })) => {
                destroy_keys(hsm.as_ref(), id).await;
                if let Err(error) = self.empty_store().await {
                    tracing::error!(vault = %id, %error, "an unmade vault may be left in the store; remove it by hand");
                }
            }
            Err(_) => destroy_keys(hsm.as_ref(), id).await,
        }
        made
    }

    async fn make_with(
        &self,
        id: VaultId,
        init: &Init,
        token: String,
        hsm: &Arc<dyn Hsm>,
    ) -> Result<Initialized, VaultError> {
        let now = self.parts.clock.now();
        for key in VAULT_KEYS {
            hsm.create_key(id.tag(), key).await?;
        }
        hsm.bind(id.tag(), &VAULT_KEYS).await?;
        // The token's randomness and the host's are both in each root: either alone is enough.
        let seed = hsm.random(96).await?;
        let mut mixed = seed.expose().chunks_exact(32);
        let mut root = || mixed_key(mixed.next());
        let q = Q::new(1, root()?);
        let system_key = SystemKey::new(root()?);
        let names = NameKey::new(1, root()?);
        let unseal_key = UnsealKey::generate(&mut rng());

        let audit_key = hsm.verifying_key().await?;
        let sharing = Sharing {
            vault: *id.as_bytes(),
            epoch: 1,
            threshold: init.quorum.threshold(),
            shares: init.quorum.shares(),
            audit_fingerprint: audit_key.fingerprint(),
        };
        let shares = shamir::split(&unseal_key, &sharing, &mut rng()).map_err(seal_error)?;
        let header = SealHeader {
            vault: *id.as_bytes(),
            epoch: 1,
            threshold: init.quorum.threshold(),
            shares: init.quorum.shares(),
            scheme: SCHEME_GF256,
            q_version: 1,
            former_q_version: None,
            audit_key,
            endorsed_keys: Vec::new(),
            signer: 0,
            ways: std::iter::once(Way::Token(TokenWay {
                serial: token.clone(),
                oldest_master: 1,
                master: 1,
                audit_key: 0,
            }))
            .chain(
                init.recovery
                    .iter()
                    .map(|recipient| Way::Recovery(RecoveryWay { recipient: recipient.text().to_owned() })),
            )
            .collect(),
            share_digests: shares.iter().map(Share::digest).collect(),
            created_ms: now.0,
        };
        let place = header.box_place(&token);
        let boxing = unseal_key.box_q(hsm.as_ref(), place, &q, &mut rng());
        let boxes = WayBoxes {
            pins: vec![unseal_key.pin_box_seal(place, init.pin.expose(), &mut rng()).map_err(seal_error)?],
            q: vec![QBox { version: 1, sealed: boxing.await.map_err(seal_error)? }],
        };
        let mut boxes = vec![boxes];
        for recipient in &init.recovery {
            let place = header.box_place(recipient.name());
            let inner = unseal_key.q_inner_seal(place, &q, &mut rng()).map_err(seal_error)?;
            let sealed = recovery::seal("box of Q", recipient, &inner).map_err(seal_error)?;
            boxes.push(WayBoxes { pins: Vec::new(), q: vec![QBox { version: 1, sealed }] });
        }
        let record = SealRecord { header: header.sign(hsm.as_ref()).await.map_err(seal_error)?, boxes };

        let system_id = *fresh_id().as_bytes();
        let systems = HashMap::from([(system_id, Arc::new(system_key))]);
        let link = Arc::new(Link::ready(Arc::clone(hsm), None, token));
        let keys = Keys::new(KeyParts {
            vault: id,
            hsm: Arc::clone(hsm),
            ways: Ways::new(header, None, vec![link], &[Arc::new(q)])?,
            systems: Systems::new(systems, system_id, None),
            names,
            lookup: LookupKey::generate(1, &mut rng()),
        });
        keys.begin_ledger(now).await;
        let mut batch = Batch::new();
        batch.require(Keyspace::Seal, keyspace::seal_record(), Precondition::Absent);
        let seal_record = record.encode();
        batch.put(Keyspace::Seal, keyspace::seal_record(), seal_record.clone());
        put_keys(&keys, &mut batch).await?;
        put_audit_key(&keys, &mut batch, now)?;
        keys.put_ledger(&mut batch).await?;
        let bootstrap = put_admins(&keys, &mut batch, &init.operators, now)?;
        self.parts.storage.commit(batch).await?;
        Ok(Initialized { vault: id, shares, bootstrap, seal_record })
    }
}

/// The keys of a new vault inside the token.
const VAULT_KEYS: [HsmKey; 3] = [
    HsmKey { purpose: HsmKeyPurpose::Master, version: 1 },
    HsmKey { purpose: HsmKeyPurpose::Epoch, version: 1 },
    HsmKey { purpose: HsmKeyPurpose::Audit, version: 1 },
];

fn mixed_key(seed: Option<&[u8]>) -> Result<LockedKey, VaultError> {
    let key = LockedKey::generate(&mut rng());
    let seed = seed.ok_or(VaultError::Randomness)?;
    let mixed = keystead_crypto::secret::SecretKey::build(|out| {
        for ((out, host), token) in out.iter_mut().zip(key.expose()).zip(seed) {
            *out = host ^ token;
        }
    });
    LockedKey::from_slice(mixed.expose()).ok_or(VaultError::Randomness)
}

/// The system key under a data key of its own, and the look-up keys under the system key.
async fn put_keys(keys: &Keys, batch: &mut Batch) -> Result<(), VaultError> {
    let systems = keys.systems();
    let id = keystead_domain::id::RecordId(systems.current);
    let failed = || corrupt(Keyspace::SystemKeys, id.as_bytes());
    let system = systems.keys.get(&systems.current).ok_or_else(failed)?;
    let new = keys.create_data_key(id).await.map_err(|error| match error {
        CreateError::Vault(error) => error,
        CreateError::NotReserved(_) => failed(),
    })?;
    let (data_key, wrapped) = (new.key, new.record);
    let at = keyspace::system_key(id.as_bytes());
    let aad = keys.aad(label::SYSTEM_KEY, Keyspace::SystemKeys, &at, 0);
    let sealed =
        record::seal_single(data_key, *id.as_bytes(), &aad, system.expose()).map_err(|_| failed())?;
    wrapped.put(batch);
    batch.put(Keyspace::SystemKeys, at.clone(), sealed);

    let keyring = SecretBytes::new(
        Writer::with_capacity(67)
            .u8(KEYRING_FORMAT)
            .u8(keys.names.id())
            .raw(keys.names.expose())
            .u8(keys.lookup.id())
            .raw(keys.lookup.expose())
            .finish(),
    );
    let at = keyspace::meta_keyring();
    let sealed = keys.seal_record(Keyspace::Meta, &at, keyring.expose())?;
    batch.put(Keyspace::Meta, at, sealed);
    Ok(())
}

fn put_audit_key(keys: &Keys, batch: &mut Batch, now: UnixMillis) -> Result<(), VaultError> {
    let at = keyspace::audit_key(day_of(now));
    let key = LockedKey::generate(&mut rng());
    let sealed = keys.seal_record(Keyspace::AuditKeys, &at, key.expose())?;
    batch.put(Keyspace::AuditKeys, at, sealed);
    Ok(())
}

fn put_admins(
    keys: &Keys,
    batch: &mut Batch,
    operators: &[(PrincipalName, CertificateMatcher)],
    now: UnixMillis,
) -> Result<Option<(Token, UnixMillis)>, VaultError> {
    seal_policy(keys, batch, &admins_policy(now)?)?;
    for (principal, matcher) in operators {
        seal_principal(keys, batch, &admin(principal.clone(), vec![matcher.clone()], now)?)?;
    }
    if !operators.is_empty() {
        return Ok(None);
    }
    put_bootstrap(keys, batch, now).map(Some)
}

/// The policy that lets members of the group `admins` do everything.
pub(crate) fn admins_policy(now: UnixMillis) -> Result<PolicyRecord, VaultError> {
    let name = PolicyName::parse(ADMINS_POLICY).map_err(|_| no_name(ADMINS_POLICY))?;
    Ok(PolicyRecord { name, text: ADMINS_TEXT.to_owned(), updated: now })
}

/// An administrator who is known by a token only, and dies with it.
pub(crate) fn put_bootstrap(
    keys: &Keys,
    batch: &mut Batch,
    now: UnixMillis,
) -> Result<(Token, UnixMillis), VaultError> {
    let admin = admin(PrincipalName::bootstrap(), Vec::new(), now)?;
    seal_principal(keys, batch, &admin)?;
    let token = Token::generate(&mut rng());
    let expires = UnixMillis(now.0.saturating_add(BOOTSTRAP_LIFE_MILLIS));
    let session = SessionRecord {
        principal: PrincipalName::bootstrap(),
        tenant: TenantName::default(),
        method: AuthMethod::Bootstrap,
        binding: SessionBinding::None,
        created: now,
        expires,
        max_expires: expires,
        renewable: false,
        parent: None,
        on_behalf_of: None,
        cidrs: Vec::new(),
        bootstrap: true,
        generation: admin.generation(),
    };
    seal_session(keys, batch, keyspace::session(&token_tag(keys, &token)), &session)?;
    Ok((token, expires))
}

fn admin(
    name: PrincipalName,
    matchers: Vec<CertificateMatcher>,
    created: UnixMillis,
) -> Result<PrincipalRecord, VaultError> {
    let group = GroupName::parse(ADMINS).map_err(|_| no_name(ADMINS))?;
    Ok(PrincipalRecord { name, groups: vec![group], matchers, disabled: false, created })
}

fn no_name(text: &str) -> VaultError {
    VaultError::Invalid { field: "name", rule: format!("{text} is not a name") }
}

fn check_recovery(recovery: &[RecoveryRecipient]) -> Result<(), VaultError> {
    let distinct: std::collections::BTreeSet<_> = recovery.iter().map(RecoveryRecipient::name).collect();
    if distinct.len() != recovery.len() || recovery.len() >= MAX_WAYS {
        let rule = format!("at most {} recipients, each once", MAX_WAYS.saturating_sub(1));
        return Err(VaultError::Invalid { field: "recovery_recipients", rule });
    }
    Ok(())
}

fn check_operators(operators: &[(PrincipalName, CertificateMatcher)]) -> Result<(), VaultError> {
    let invalid = |rule: String| Err(VaultError::Invalid { field: "operators", rule });
    if operators.len() > MAX_OPERATORS {
        return invalid(format!("init registers at most {MAX_OPERATORS} operators; add the rest afterwards"));
    }
    for (index, (name, matcher)) in operators.iter().enumerate() {
        for (other, identity) in operators.iter().take(index) {
            if other == name || identity == matcher {
                return invalid(format!("{name} and {other} share a name or a certificate identity"));
            }
        }
    }
    Ok(())
}
