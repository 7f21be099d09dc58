//! Reading the audit log back, opened. File reads happen off the async threads, in bounded steps.

use std::sync::Arc;

use keystead_audit::{AuditLog, Body, Entry, EntryKind, Follower, OpenBodyError, OpenFailed, StoredBody};
use keystead_domain::policy::{Action, Resource};

use crate::audit_trail::sealer::day_in;
use crate::error::VaultError;
use crate::operation::StreamOperation;
use crate::request::Permit;
use crate::unsealed::UnsealedVault;
use crate::vault::Vault;

/// Entries in one step.
const STEP: usize = 256;

/// An entry with its body, if that opens.
pub struct Opened {
    /// Its place in the log.
    pub seq: u64,
    /// When it was written, milliseconds since 1970.
    pub time: u64,
    /// The node that wrote it.
    pub node: String,
    /// What sort of entry it is.
    pub kind: EntryKind,
    /// What it says; nothing once retention dropped its key.
    pub body: Option<Body>,
}

/// Streams the log: the newest `last` entries, then, with `follow`, those to come.
pub struct TailAudit {
    log: Arc<AuditLog>,
    from: u64,
    /// Opened by the first permitted step.
    follower: Option<Follower>,
    follow: bool,
    /// What may be read: the end of the log before the caller was last authorized.
    until: u64,
}

impl TailAudit {
    /// Begins `last` entries before the end.
    pub fn new(vault: &Vault, last: u64, follow: bool) -> Self {
        let log = Arc::clone(vault.audit());
        let until = log.size();
        Self { log, from: until.saturating_sub(last), follower: None, follow, until }
    }
}

impl StreamOperation for TailAudit {
    type Item = Opened;
    const ACTION: Action = Action::AuditRead;
    const RECORD_ITEMS: bool = false;

    fn resource(&self) -> Resource {
        Resource::Audit
    }

    async fn ready(&mut self) -> bool {
        let Some(follower) = &self.follower else { return self.follow || self.from < self.until };
        if !self.follow {
            return follower.position() < self.until;
        }
        if follower.lag() == 0 {
            follower.growth().await;
            if follower.is_closed() {
                return false;
            }
        }
        // What is recorded from here on is for the next event: it may be what takes the right to read away.
        self.until = self.log.size();
        true
    }

    async fn next(&mut self, vault: &UnsealedVault, _: &Permit<Self>) -> Result<Vec<Opened>, VaultError> {
        let (log, from, until) = (Arc::clone(&self.log), self.from, self.until);
        let follower = self.follower.take();
        let (follower, entries) = blocking(move || {
            let mut follower = match follower {
                Some(follower) => follower,
                None => log.follow(from)?,
            };
            let mut entries = Vec::new();
            while entries.len() < STEP && follower.position() < until {
                match follower.next_entry()? {
                    Some(entry) => entries.push(entry),
                    None => break,
                }
            }
            Ok((follower, entries))
        })
        .await?;
        self.follower = Some(follower);
        open_all(vault, entries).await
    }
}

/// Up to `limit` entries from `seq` on, opened.
pub(crate) async fn read_opened(
    vault: &UnsealedVault,
    seq: u64,
    limit: usize,
) -> Result<Vec<Opened>, VaultError> {
    let log = Arc::clone(&vault.audit);
    let entries = blocking(move || {
        let mut reader = log.reader(seq)?;
        let mut entries = Vec::new();
        while entries.len() < limit {
            match reader.next_entry()? {
                Some(entry) => entries.push(entry),
                None => break,
            }
        }
        Ok(entries)
    })
    .await?;
    open_all(vault, entries).await
}

async fn open_all(vault: &UnsealedVault, entries: Vec<Entry>) -> Result<Vec<Opened>, VaultError> {
    for entry in &entries {
        if let StoredBody::Sealed { key_id, .. } = &entry.body {
            vault.ensure_day(day_in(*key_id)).await?;
        }
    }
    entries.into_iter().map(|entry| opened(vault, entry)).collect()
}

fn opened(vault: &UnsealedVault, entry: Entry) -> Result<Opened, VaultError> {
    let body = match entry.open(Some(vault.opener.as_ref())) {
        Ok(body) => Some(body),
        Err(OpenBodyError::Open(OpenFailed::NotNow | OpenFailed::NoSuchKey)) => None,
        Err(error) => {
            tracing::error!(seq = entry.seq, %error, "an audit entry does not open");
            None
        }
    };
    Ok(Opened {
        seq: entry.seq,
        time: entry.time.0,
        node: entry.node.as_str().to_owned(),
        kind: entry.kind,
        body,
    })
}

/// Reads files off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, VaultError> + Send + 'static,
) -> Result<T, VaultError> {
    match tokio::task::spawn_blocking(read).await {
        Ok(result) => result,
        Err(_) => Err(VaultError::Interrupted { what: "reading the audit log" }),
    }
}
