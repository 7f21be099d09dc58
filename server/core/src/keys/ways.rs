//! The ways to the data keys, as one seal record says: which tokens wrap and open, under which versions, and who can
//! recover offline. Invariant: a value never changes; another seal record makes another value.

use std::sync::Arc;

use keystead_crypto::envelope::{Q, TokenWay, Way, Wrap};
use keystead_crypto::recovery::RecoveryRecipient;
use keystead_crypto::seal_record::{self, SealHeader};
use keystead_storage::Revision;
use sha2::{Digest, Sha256};

use super::link::Link;
use crate::error::VaultError;

/// The ways to the data keys.
pub(crate) struct Ways {
    /// What the seal record says.
    pub(crate) header: SealHeader,
    /// The revision of the seal record; nothing before it is stored.
    pub(crate) seal: Option<Revision>,
    /// The tokens of the configuration, in its order.
    pub(crate) links: Vec<Arc<Link>>,
    /// Offline.
    pub(crate) recovery: Vec<RecoveryRecipient>,
    /// The version of Q that seals.
    pub(crate) q: Arc<Q>,
    /// Older versions that still open.
    pub(crate) former: Vec<Arc<Q>>,
}

/// A token of the header, with a link of the same name.
pub(crate) struct Reached<'a> {
    pub(crate) token: &'a seal_record::TokenWay,
    pub(crate) link: &'a Arc<Link>,
}

impl Ways {
    /// The ways of a header.
    ///
    /// # Errors
    /// `SealRecord` when the header names a version of Q that is not there, or a recipient that is none.
    pub(crate) fn new(
        header: SealHeader,
        seal: Option<Revision>,
        links: Vec<Arc<Link>>,
        qs: &[Arc<Q>],
    ) -> Result<Self, VaultError> {
        let broken = |what: &str| VaultError::SealRecord { what: what.to_owned() };
        let q = qs.iter().find(|q| q.version() == header.q_version);
        let q = Arc::clone(q.ok_or_else(|| broken("it names a version of Q that is not at hand"))?);
        let former = qs.iter().filter(|other| Some(other.version()) == header.former_q_version);
        let former = former.map(Arc::clone).collect();
        let recovery = header.ways.iter().filter_map(|way| match way {
            seal_record::Way::Recovery(way) => Some(RecoveryRecipient::parse(&way.recipient)),
            seal_record::Way::Token(_) => None,
        });
        let recovery = recovery.collect::<Result<_, _>>().map_err(|error| broken(&error.to_string()))?;
        Ok(Self { header, seal, links, recovery, q, former })
    }

    /// The tokens that wrap: each with the link to go by, those that answer first, and all of them if none does.
    pub(crate) fn reached(&self) -> Vec<Reached<'_>> {
        let mut ready = Vec::new();
        let mut away = Vec::new();
        for token in self.tokens() {
            let of_way = |way: Option<String>| way.as_deref() == Some(token.serial.as_str());
            if let Some(link) = self.links.iter().find(|link| of_way(link.ready_way())) {
                ready.push(Reached { token, link });
            } else if let Some(link) = self.links.iter().find(|link| of_way(link.way())) {
                away.push(Reached { token, link });
            }
        }
        if ready.is_empty() { away } else { ready }
    }

    /// The token of this serial itself, if it answers: keys are made and destroyed, PINs changed and boxes made there. What is
    /// done to a clone is on the clone alone.
    ///
    /// # Errors
    /// `TokenAway`, or `OnlyItsClone` if a clone answers.
    pub(crate) fn original(&self, serial: &str) -> Result<&Arc<Link>, VaultError> {
        let mut ready =
            self.links.iter().filter(|link| link.ready_way().as_deref() == Some(serial)).peekable();
        let clone_answers = ready.peek().is_some();
        let token = || serial.to_owned();
        ready.find(|link| link.clone_of().is_none()).ok_or_else(|| {
            if clone_answers {
                VaultError::OnlyItsClone { token: token() }
            } else {
                VaultError::TokenAway { token: token() }
            }
        })
    }

    /// Whether every token that may hold keys of a way answers: itself and each clone.
    pub(crate) fn all_answer(&self, serial: &str) -> bool {
        let of_way =
            |link: &&Arc<Link>| link.clone_of() == Some(serial) || link.way().as_deref() == Some(serial);
        self.original(serial).is_ok() && self.links.iter().filter(of_way).all(|link| link.status().ready)
    }

    /// Tokens that answer and are no way any more: what nobody wrapped anew yet opens through them.
    pub(crate) fn retired(&self) -> Vec<(String, &Arc<Link>)> {
        let named = |name: &str| self.tokens().any(|token| token.serial == name);
        let ready = self.links.iter().filter_map(|link| Some((link.ready_way()?, link)));
        ready.filter(|(name, _)| !named(name)).collect()
    }

    /// The tokens of the header.
    pub(crate) fn tokens(&self) -> impl Iterator<Item = &seal_record::TokenWay> {
        self.header.ways.iter().filter_map(seal_record::Way::token)
    }

    /// The version of M under which the first way wraps.
    pub(crate) fn master_version(&self) -> u32 {
        self.tokens().next().map_or(0, |token| token.master)
    }

    /// Ways of a fresh data key through these tokens.
    pub(crate) fn of<'a>(&'a self, reached: &[Reached<'a>]) -> Vec<Way<'a>> {
        let tokens = reached.iter().map(|reached| Way::Token(reached.way()));
        tokens.chain(self.recovery.iter().map(Way::Recovery)).collect()
    }

    /// How many ways a record should have wraps for.
    pub(crate) fn wanted(&self) -> usize {
        self.header.ways.len()
    }

    /// All versions of Q that open, the newest first.
    pub(crate) fn qs(&self) -> Vec<&Q> {
        std::iter::once(self.q.as_ref()).chain(self.former.iter().map(AsRef::as_ref)).collect()
    }

    /// A version of Q.
    pub(crate) fn q(&self, version: u32) -> Option<&Q> {
        self.qs().into_iter().find(|q| q.version() == version)
    }

    /// Whether a wrap is of the wanted state: of a way that counts, under its current versions.
    pub(crate) fn wants(&self, wrap: &Wrap) -> bool {
        wrap.q_version == self.q.version()
            && (self.tokens().any(|token| token.serial == wrap.token && token.master == wrap.master_version)
                || self.recovery.iter().any(|recipient| recipient.name() == wrap.token))
    }

    /// Whether a record of these wraps is as it should be.
    pub(crate) fn satisfied_by(&self, wraps: &[Wrap]) -> bool {
        wraps.len() == self.wanted() && wraps.iter().all(|wrap| self.wants(wrap))
    }

    /// A digest of the wanted state, by which a pass over all data keys knows whether it is still the right one.
    pub(crate) fn goal(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(b"keystead/goal/v1");
        hash.update(self.q.version().to_be_bytes());
        for token in self.tokens() {
            hash.update(token.serial.as_bytes());
            hash.update([0]);
            hash.update(token.master.to_be_bytes());
        }
        for recipient in &self.recovery {
            hash.update(recipient.fingerprint());
        }
        hash.finalize().into()
    }
}

impl<'a> Reached<'a> {
    /// As the envelope takes it.
    pub(crate) fn way(&self) -> TokenWay<'a> {
        TokenWay { hsm: self.link.hsm.as_ref(), name: &self.token.serial, master_version: self.token.master }
    }
}
