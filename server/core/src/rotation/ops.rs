//! What operators see of keys and of their rotation.

use std::time::Duration;

use keystead_crypto::seal_record::Way;
use keystead_domain::policy::{Action, Resource};
use keystead_domain::time::UnixMillis;

use super::{Progress, alarms_of};
use crate::error::VaultError;
use crate::keys::{LinkStatus, MasterKey};
use crate::operation::{Detail, Effect, Operation};
use crate::request::Permit;
use crate::unsealed::UnsealedVault;

/// Shows ways, master keys and system keys.
pub struct ListKeys;

/// Shows how far the pass is.
pub struct GetRotation;

/// Something about keys that a person should mend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Alarm {
    /// A master key is older than it should be.
    Overdue {
        /// Its way.
        way: String,
        /// Its version.
        version: u32,
    },
    /// A master key has made many of the wraps that it may make.
    ManyWraps {
        /// Its way.
        way: String,
        /// Its version.
        version: u32,
        /// How many.
        wraps: u64,
    },
    /// A token is away.
    TokenAway {
        /// Its way, if it is known.
        way: Option<String>,
        /// Why.
        reason: String,
    },
    /// Data keys lack a way, or do not open.
    Lacking {
        /// How many.
        data_keys: u64,
        /// The first of those that have a fault of their own: id in hex, and why.
        named: Vec<(String, String)>,
    },
    /// Records that no system key opens; an old system key is kept for them.
    Broken {
        /// How many.
        records: u64,
    },
    /// Records of data keys that are none.
    Malformed {
        /// How many are named.
        data_keys: u64,
    },
}

impl Alarm {
    /// In words.
    pub fn text(&self) -> String {
        match self {
            Self::Overdue { way, version } => {
                format!("master key {version} of {way} is overdue: run `keystead keys rotate`")
            }
            Self::ManyWraps { way, version, wraps } => {
                format!("master key {version} of {way} has made {wraps} wraps: run `keystead keys rotate`")
            }
            Self::TokenAway { way, reason } => {
                let way = way.as_deref().unwrap_or("not known yet");
                format!("a token ({way}) is not used: {reason}")
            }
            Self::Lacking { data_keys, named } if named.is_empty() => {
                format!("{data_keys} data keys lack a way; they are wrapped again once every token answers")
            }
            Self::Lacking { data_keys, named } => {
                let named: Vec<String> = named.iter().map(|(id, why)| format!("{id}: {why}")).collect();
                format!(
                    "{data_keys} data keys cannot be wrapped anew and keep the old keys ({})",
                    named.join("; ")
                )
            }
            Self::Broken { records } => {
                format!(
                    "{records} system records do not open and keep an old system key: restore them from a backup"
                )
            }
            Self::Malformed { data_keys } => {
                format!(
                    "{data_keys} or more records of data keys are malformed and keep the old keys, which may open them in a backup: restore or remove them"
                )
            }
        }
    }
}

/// One way to the data keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WayReport {
    /// Its name.
    pub name: String,
    /// The recipient, for a way offline.
    pub recipient: Option<String>,
    /// The link to it, for a token that is configured.
    pub link: Option<LinkStatus>,
    /// The oldest version of M that may be needed; 0 offline.
    pub oldest_master: u32,
    /// The version of M that wraps; 0 offline.
    pub master: u32,
}

/// One system key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemKeyReport {
    /// Its id in hex.
    pub id: String,
    /// Whether it seals.
    pub current: bool,
    /// When it was made.
    pub since: UnixMillis,
    /// Records that it may have sealed at most.
    pub records: u64,
}

/// Everything about keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyReport {
    /// The ways, in the order in which they are tried.
    pub ways: Vec<WayReport>,
    /// Every version of the master key there ever was, with the wraps that it may have made.
    pub masters: Vec<MasterKey>,
    /// System keys.
    pub systems: Vec<SystemKeyReport>,
    /// The version of Q that seals.
    pub q_version: u32,
    /// What should be mended.
    pub alarms: Vec<Alarm>,
    /// Age of a master key from which it is overdue.
    pub max_age: Duration,
}

impl UnsealedVault {
    /// What is known of keys.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn key_report(&self) -> Result<KeyReport, VaultError> {
        let snapshot = self.storage.snapshot().await?;
        self.keys.follow_seal(snapshot.as_ref(), self.storage.as_ref()).await?;
        let (ways, systems, ledger) = (self.keys.ways(), self.keys.systems(), self.keys.ledger().await);
        let links: Vec<LinkStatus> = ways.links.iter().map(|link| link.status()).collect();
        let link_of = |name: &str| links.iter().find(|link| link.way.as_deref() == Some(name)).cloned();
        let report = |way: &Way| match way {
            Way::Token(token) => WayReport {
                name: token.serial.clone(),
                recipient: None,
                link: link_of(&token.serial),
                oldest_master: token.oldest_master,
                master: token.master,
            },
            Way::Recovery(recovery) => WayReport {
                name: recovery.name(),
                recipient: Some(recovery.recipient.clone()),
                link: None,
                oldest_master: 0,
                master: 0,
            },
        };
        let now = self.clock.now();
        let mut masters = ledger.masters.0;
        let mut alarms = Vec::new();
        for key in &mut masters {
            let used = self.keys.wraps_used(&key.way, key.version);
            alarms.extend(alarms_of(key, used, &self.rotation.options, now));
            key.reserved = used;
        }
        alarms.extend(links.iter().filter(|link| !link.ready).map(|link| Alarm::TokenAway {
            way: link.way.clone(),
            reason: link.reason.clone().unwrap_or_default(),
        }));
        let progress = self.rotation.progress().clone();
        if progress.lacking > 0 {
            let (data_keys, named) = (progress.lacking, progress.lacking_named.clone());
            alarms.push(Alarm::Lacking { data_keys, named });
        }
        match self.broken_records().await {
            0 => {}
            records => alarms.push(Alarm::Broken { records }),
        }
        if !progress.malformed.is_empty() {
            let data_keys = u64::try_from(progress.malformed.len()).unwrap_or(u64::MAX);
            alarms.push(Alarm::Malformed { data_keys });
        }
        let system = |system: &crate::keys::SystemUse| SystemKeyReport {
            id: data_encoding::HEXLOWER.encode(&system.id),
            current: system.id == systems.current,
            since: system.since,
            records: if system.id == systems.current { systems.used() } else { system.reserved },
        };
        Ok(KeyReport {
            ways: ways.header.ways.iter().map(report).collect(),
            masters,
            systems: ledger.systems.iter().map(system).collect(),
            q_version: ways.q.version(),
            alarms,
            max_age: self.rotation.options.max_age,
        })
    }

    /// Looks for what should be mended; [`Self::key_alarms`] tells it from then on.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn look_for_key_alarms(&self) -> Result<Vec<Alarm>, VaultError> {
        let found = self.key_report().await?.alarms;
        self.rotation.alarms().clone_from(&found);
        Ok(found)
    }

    /// What was last found.
    pub fn key_alarms(&self) -> Vec<Alarm> {
        self.rotation.alarms().clone()
    }

    /// How far the pass is.
    pub fn rotation_progress(&self) -> Progress {
        self.rotation.progress().clone()
    }
}

impl Operation for ListKeys {
    type Output = KeyReport;
    const ACTION: Action = Action::KeysRead;
    const EFFECT: Effect = Effect::Read;

    fn resource(&self) -> Resource {
        Resource::System
    }

    async fn handle(self, vault: &UnsealedVault, _: Permit<Self>) -> Result<KeyReport, VaultError> {
        vault.key_report().await
    }

    fn detail(_: &KeyReport) -> Detail {
        Detail::new()
    }
}

impl Operation for GetRotation {
    type Output = Progress;
    const ACTION: Action = Action::KeysRead;
    const EFFECT: Effect = Effect::Read;

    fn resource(&self) -> Resource {
        Resource::System
    }

    async fn handle(self, vault: &UnsealedVault, _: Permit<Self>) -> Result<Progress, VaultError> {
        // Of the seal record in force: a pass that ended before it changed says nothing.
        let complete = vault.pass_is_clean().await?;
        Ok(Progress { complete, ..vault.rotation_progress() })
    }

    fn detail(_: &Progress) -> Detail {
        Detail::new()
    }
}
