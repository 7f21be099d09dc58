//! The list of wraps of a data key: one for each way to it, more while keys are changed.
//!
//! Invariants: every wrap of a list holds the same data key under the same salt; a list is never empty; a wrap made by a
//! token was opened again before it counts. Absent: which ways there are, and which of them are away.

use futures::future::join_all;
use rand_core::CryptoRng;
use subtle::ConstantTimeEq;

use super::{DataKey, INNER_BYTES, InnerBlob, OpeningKey, Q, check_sealed, read_sealed, write_sealed};
use crate::aad::Aad;
use crate::codec::{CodecError, Reader, Writer};
use crate::error::CryptoError;
use crate::ports::{HsmError, HsmKey, HsmKeyPurpose, HsmSealed, KeyWrapper};
use crate::recovery::{self, MECHANISM_AGE, NAME_PREFIX, RecoveryIdentity, RecoveryRecipient};

const MAGIC: [u8; 4] = *b"KSDK";
const FORMAT: u8 = 1;
const SUITE: u8 = 1;
const WRAP_LABEL: &str = "keystead/v1/wrap";
const WHAT: &str = "wrapped data key";
/// The most wraps that a list holds: ways times versions while a rotation runs.
pub const MAX_WRAPS: usize = 16;
/// The longest token serial; PKCS#11 has 16 bytes, other modules name themselves at more length.
pub const MAX_TOKEN_BYTES: usize = 64;

/// A token that wraps and opens, under one version of its master key.
#[derive(Clone, Copy)]
pub struct TokenWay<'a> {
    /// The token.
    pub hsm: &'a dyn KeyWrapper,
    /// Its name: the serial, or that of the token it is a clone of.
    pub name: &'a str,
    /// The version of M that wraps from now on; counts from 1.
    pub master_version: u32,
}

/// A way to a data key.
#[derive(Clone, Copy)]
pub enum Way<'a> {
    /// Through a token.
    Token(TokenWay<'a>),
    /// Offline, for whoever holds the private half.
    Recovery(&'a RecoveryRecipient),
}

impl<'a> Way<'a> {
    /// The name that its wraps carry.
    pub fn name(&self) -> &'a str {
        match self {
            Self::Token(token) => token.name,
            Self::Recovery(recipient) => recipient.name(),
        }
    }

    /// The version of M that its wraps carry: 0 where there is none.
    pub fn master_version(&self) -> u32 {
        match self {
            Self::Token(token) => token.master_version,
            Self::Recovery(_) => 0,
        }
    }
}

/// A way that failed, while another did not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// Its name.
    pub way: String,
    /// What went wrong.
    pub error: CryptoError,
}

/// A fresh record.
#[derive(Debug)]
pub struct Created {
    /// The record.
    pub wrapped: WrappedDataKey,
    /// What all its wraps hold, for a cache.
    pub inner: InnerBlob,
    /// Ways that it lacks.
    pub gaps: Vec<Gap>,
}

/// An opened record.
#[derive(Debug)]
pub struct Opened {
    /// The data key.
    pub key: OpeningKey,
    /// Its inner blob, for a cache.
    pub inner: InnerBlob,
    /// Ways that were tried before.
    pub failed: Vec<Gap>,
}

/// One way to the inner blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrap {
    /// The name of the way.
    pub token: String,
    /// The id of the key on the token; for a recovery wrap the first half of the SHA-256 of the recipient.
    pub key_id: [u8; 16],
    /// The version of M; 0 in a recovery wrap.
    pub master_version: u32,
    /// The version of Q that the inner blob is sealed under.
    pub q_version: u32,
    /// What the module, or age, made.
    pub sealed: HsmSealed,
}

/// The record of a data key: a salt and the list of its wraps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrappedDataKey {
    pub(super) salt: [u8; 32],
    pub(super) wraps: Vec<Wrap>,
}

impl WrappedDataKey {
    /// Seals a data key under Q and wraps it for every way at once. The first way must do it; another that fails is a
    /// gap. Each token's wrap was opened again when this returns.
    ///
    /// # Errors
    /// What the first way failed with; `NoWrapForToken` without a way.
    pub fn create<'a>(
        ways: Vec<Way<'a>>,
        q: &Q,
        aad: &Aad<'_>,
        data_key: &DataKey,
        mut rng: &mut dyn CryptoRng,
    ) -> impl Future<Output = Result<Created, CryptoError>> + Send + use<'a> {
        let canonical = aad.canonical();
        let vault = aad.vault;
        let inner = InnerBlob::seal(q, aad, data_key, &mut rng).and_then(|inner| {
            let opened = inner.open(q, aad)?;
            let same = bool::from(opened.0.ct_eq(&data_key.0));
            same.then_some(inner).ok_or(CryptoError::NotAuthentic { what: "inner blob" })
        });
        async move {
            let inner = inner?;
            let made = ways.iter().map(|way| wrap(*way, vault, &canonical, &inner));
            let made = join_all(made).await;
            let (mut wraps, mut gaps) = (Vec::with_capacity(made.len()), Vec::new());
            for (way, made) in ways.iter().zip(made) {
                match made {
                    Ok(wrap) => wraps.push(wrap),
                    Err(error) if wraps.is_empty() => return Err(error),
                    Err(error) => gaps.push(Gap { way: way.name().to_owned(), error }),
                }
            }
            if wraps.is_empty() {
                return Err(CryptoError::NoWrapForToken { token: String::new(), wrapped_for: Vec::new() });
            }
            Ok(Created { wrapped: Self { salt: inner.salt, wraps }, inner, gaps })
        }
    }

    /// Opens the record through the first of these tokens that can, in their order; each by its newest wrap under a
    /// version of Q at hand. A token's version of M is not looked at: its older wraps open too.
    ///
    /// # Errors
    /// What the first token that has a wrap failed with; `NoWrapForToken` where none has one.
    pub async fn open(
        &self,
        tokens: &[TokenWay<'_>],
        qs: &[&Q],
        aad: &Aad<'_>,
    ) -> Result<Opened, CryptoError> {
        let canonical = aad.canonical();
        let mut failed = Vec::new();
        for token in tokens {
            let Some((newest, q)) = self.newest(token.name, qs) else { continue };
            let opened = unwrap(token.hsm, newest, &self.salt, &canonical).await.and_then(|bytes| {
                let inner = InnerBlob { salt: self.salt, q_version: newest.q_version, bytes };
                Ok((inner.open(q, aad)?, inner))
            });
            match opened {
                Ok((key, inner)) => return Ok(Opened { key, inner, failed }),
                Err(error) => failed.push(Gap { way: token.name.to_owned(), error }),
            }
        }
        match failed.into_iter().next() {
            Some(first) => Err(first.error),
            None => Err(CryptoError::NoWrapForToken {
                token: tokens.iter().map(|token| token.name).collect::<Vec<_>>().join(", "),
                wrapped_for: self.wraps.iter().map(|wrap| wrap.token.clone()).collect(),
            }),
        }
    }

    /// Opens the record offline, with the private half of a recovery recipient, by its newest wrap under a version of Q
    /// at hand.
    ///
    /// # Errors
    /// `NoWrapForToken` where nothing is wrapped for it under these versions; `NotAuthentic`.
    pub fn open_recovery(
        &self,
        identity: &RecoveryIdentity,
        qs: &[&Q],
        aad: &Aad<'_>,
    ) -> Result<Opened, CryptoError> {
        let recipient = identity.recipient();
        let (wrap, q) = self.newest(recipient.name(), qs).ok_or_else(|| CryptoError::NoWrapForToken {
            token: recipient.name().to_owned(),
            wrapped_for: self.wraps.iter().map(|wrap| wrap.token.clone()).collect(),
        })?;
        let opened = identity.open(WHAT, &wrap.sealed, INNER_BYTES)?;
        let bytes = opened.try_into().map_err(|_| CryptoError::NotAuthentic { what: WHAT })?;
        let inner = InnerBlob { salt: self.salt, q_version: wrap.q_version, bytes };
        Ok(Opened { key: inner.open(q, aad)?, inner, failed: Vec::new() })
    }

    /// Whether it has a wrap for this way, under its version of M and this version of Q.
    pub fn has(&self, way: &Way<'_>, q_version: u32) -> bool {
        self.find(way.name(), way.master_version(), q_version).is_some()
    }

    /// Adds a wrap for a way, in the place of one for the same way and versions. Nothing changes on an error.
    ///
    /// # Errors
    /// Those of the way; `TooLong` when the list is full; `NotAuthentic` for the inner blob of another record.
    pub async fn add_wrap(
        &mut self,
        way: Way<'_>,
        inner: &InnerBlob,
        aad: &Aad<'_>,
    ) -> Result<(), CryptoError> {
        if inner.salt != self.salt {
            return Err(CryptoError::NotAuthentic { what: WHAT });
        }
        let place = self.find(way.name(), way.master_version(), inner.q_version);
        if place.is_none() && self.wraps.len() >= MAX_WRAPS {
            let found = self.wraps.len().saturating_add(1);
            return Err(CryptoError::TooLong { what: "list of wraps", found, max: MAX_WRAPS });
        }
        let (vault, canonical) = (aad.vault, aad.canonical());
        let wrap = wrap(way, vault, &canonical, inner).await?;
        match place.and_then(|place| self.wraps.get_mut(place)) {
            Some(former) => *former = wrap,
            None => self.wraps.push(wrap),
        }
        Ok(())
    }

    /// Drops the wraps that `gone` names; says how many. The last one stays, whatever it says.
    pub fn drop_wraps(&mut self, gone: impl Fn(&Wrap) -> bool) -> usize {
        let before = self.wraps.len();
        if self.wraps.iter().all(&gone) {
            self.wraps.truncate(1);
        } else {
            self.wraps.retain(|wrap| !gone(wrap));
        }
        before.saturating_sub(self.wraps.len())
    }

    /// The wraps, in the order of the record.
    pub fn wraps(&self) -> &[Wrap] {
        &self.wraps
    }

    fn find(&self, name: &str, master_version: u32, q_version: u32) -> Option<usize> {
        self.wraps.iter().position(|wrap| {
            (wrap.token.as_str(), wrap.master_version, wrap.q_version) == (name, master_version, q_version)
        })
    }

    /// The wrap of a way with the highest version of M, then of Q, of those whose Q is at hand.
    fn newest<'q>(&self, name: &str, qs: &[&'q Q]) -> Option<(&Wrap, &'q Q)> {
        self.wraps
            .iter()
            .filter(|wrap| wrap.token == name)
            .filter_map(|wrap| qs.iter().find(|q| q.version() == wrap.q_version).map(|q| (wrap, *q)))
            .max_by_key(|(wrap, _)| (wrap.master_version, wrap.q_version))
    }

    /// The record's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.raw(&MAGIC).u8(FORMAT).u8(SUITE).raw(&self.salt);
        out.u8(u8::try_from(self.wraps.len()).unwrap_or(0));
        for wrap in &self.wraps {
            out.text(&wrap.token).raw(&wrap.key_id).u32(wrap.master_version).u32(wrap.q_version);
            write_sealed(&mut out, &wrap.sealed);
        }
        out.finish()
    }

    /// Reads it back, strictly.
    ///
    /// # Errors
    /// `Malformed`.
    pub fn decode(bytes: &[u8]) -> Result<Self, CryptoError> {
        Self::read(bytes).map_err(CryptoError::malformed(WHAT))
    }

    fn read(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut reader = Reader::new(WHAT, bytes);
        reader.magic(MAGIC, FORMAT)?;
        reader.known("suite", &[SUITE])?;
        let salt = reader.array("salt")?;
        let found = usize::from(reader.u8("number of wraps")?);
        if found == 0 || found > MAX_WRAPS {
            return Err(CodecError::Length { field: "wraps", found, min: 1, max: MAX_WRAPS });
        }
        let mut wraps: Vec<Wrap> = Vec::with_capacity(found);
        for _ in 0..found {
            let wrap = Wrap {
                token: reader.text("token", 1, MAX_TOKEN_BYTES)?.to_owned(),
                key_id: reader.array("key id")?,
                master_version: reader.u32("master version")?,
                q_version: reader.u32("version of Q")?,
                sealed: read_sealed(&mut reader)?,
            };
            if !is_whole(&wrap) || wraps.iter().any(|other| same_way(other, &wrap)) {
                return Err(CodecError::Invalid { field: "wraps" });
            }
            wraps.push(wrap);
        }
        reader.finish()?;
        Ok(Self { salt, wraps })
    }
}

/// Whether name, mechanism and versions go together: what age sealed has a recovery name and no version of M, what a
/// token sealed has neither.
fn is_whole(wrap: &Wrap) -> bool {
    let offline = wrap.sealed.mechanism == MECHANISM_AGE;
    wrap.q_version > 0
        && (wrap.master_version == 0) == offline
        && wrap.token.starts_with(NAME_PREFIX) == offline
}

fn same_way(a: &Wrap, b: &Wrap) -> bool {
    (&a.token, a.master_version, a.q_version) == (&b.token, b.master_version, b.q_version)
}

/// Wraps an inner blob for a way. A token opens its wrap again at once; what is sealed for a recipient, nobody here can
/// open.
pub(super) async fn wrap(
    way: Way<'_>,
    vault: [u8; 16],
    aad: &[u8],
    inner: &InnerBlob,
) -> Result<Wrap, CryptoError> {
    let q_version = inner.q_version;
    let TokenWay { hsm, name, master_version } = match way {
        Way::Token(token) => token,
        Way::Recovery(recipient) => {
            let sealed = recovery::seal(WHAT, recipient, &inner.bytes)?;
            let (token, key_id) = (recipient.name().to_owned(), recipient.key_id());
            return Ok(Wrap { token, key_id, master_version: 0, q_version, sealed });
        }
    };
    if name.is_empty() || name.len() > MAX_TOKEN_BYTES || name.starts_with(NAME_PREFIX) {
        return Err(CryptoError::TooLong { what: "token serial", found: name.len(), max: MAX_TOKEN_BYTES });
    }
    let key = HsmKey { purpose: HsmKeyPurpose::Master, version: master_version };
    let key_id = key.id(vault_tag(vault));
    let bound = wrap_aad(key_id, master_version, q_version, &inner.salt, aad);
    let (sealed, opened) = hsm.wrap_and_unwrap(key, &bound, &inner.bytes).await.map_err(refused)?;
    check_sealed(&sealed, INNER_BYTES)?;
    if opened != inner.bytes {
        return Err(CryptoError::lied("a fresh wrap opened to other bytes"));
    }
    Ok(Wrap { token: name.to_owned(), key_id, master_version, q_version, sealed })
}

async fn unwrap(
    hsm: &dyn KeyWrapper,
    wrap: &Wrap,
    salt: &[u8; 32],
    aad: &[u8],
) -> Result<[u8; INNER_BYTES], CryptoError> {
    let key = HsmKey { purpose: HsmKeyPurpose::Master, version: wrap.master_version };
    let bound = wrap_aad(wrap.key_id, wrap.master_version, wrap.q_version, salt, aad);
    let inner = hsm.unwrap(key, &bound, &wrap.sealed).await.map_err(refused)?;
    inner.try_into().map_err(|_| CryptoError::lied("an unwrapped inner blob has another length"))
}

fn refused(error: HsmError) -> CryptoError {
    match error {
        HsmError::NotAuthentic => CryptoError::NotAuthentic { what: WHAT },
        other => other.into(),
    }
}

/// What the module binds a wrap to: key, versions, salt and place.
pub(crate) fn wrap_aad(
    key_id: [u8; 16],
    master_version: u32,
    q_version: u32,
    salt: &[u8; 32],
    aad: &[u8],
) -> Vec<u8> {
    Writer::new().text(WRAP_LABEL).raw(&key_id).u32(master_version).u32(q_version).raw(salt).raw(aad).finish()
}

/// The first 8 bytes of a vault's id, which name its keys on a token.
pub fn vault_tag(vault: [u8; 16]) -> [u8; 8] {
    let [tag @ .., _, _, _, _, _, _, _, _] = vault;
    tag
}
