//! The end of a stream, recorded however it ends: at its end, with an error, or when its caller hangs up.
//!
//! Invariant: it holds no key. A vault that has sealed meanwhile ended every stream, and its own entry says so.

use std::sync::Arc;

use keystead_domain::policy::{Action, Resource};

use super::Entry;
use crate::error::VaultError;
use crate::request::{Caller, RequestContext};
use crate::unsealed::UnsealedVault;
use crate::vault::Vault;

/// What the caller left without waiting for the end is recorded as.
const HUNG_UP: &str = "CANCELLED";

pub(crate) struct StreamEnd {
    vault: Arc<Vault>,
    ctx: RequestContext,
    caller: Caller,
    action: Action,
    resource: Resource,
    recorded: bool,
}

impl StreamEnd {
    pub(crate) fn of(
        vault: Arc<Vault>,
        ctx: &RequestContext,
        caller: Caller,
        action: Action,
        resource: Resource,
    ) -> Self {
        Self { vault, ctx: ctx.again(), caller, action, resource, recorded: false }
    }

    pub(crate) async fn record(&mut self, outcome: &'static str) -> Result<(), VaultError> {
        let Ok(open) = self.vault.unsealed() else { return Ok(()) };
        let mut entry = self.entry(&open);
        let reserved = entry.reserve(1).await;
        // Not before: a caller may hang up while there is no place for it. What has its place is written whoever waits.
        self.recorded = true;
        entry.record_stream_end(reserved?, outcome).await
    }

    fn entry(&self, vault: &UnsealedVault) -> Entry {
        let mut entry = Entry::begin(vault, &self.ctx, self.action, self.resource.clone());
        entry.identified(&self.caller);
        entry
    }
}

impl Drop for StreamEnd {
    fn drop(&mut self) {
        if self.recorded {
            return;
        }
        let (Ok(open), Ok(runtime)) = (self.vault.unsealed(), tokio::runtime::Handle::try_current()) else {
            return;
        };
        let mut entry = self.entry(&open);
        runtime.spawn(async move {
            let recorded = match entry.reserve(1).await {
                Ok(reserved) => entry.record_stream_end(reserved, HUNG_UP).await,
                Err(error) => Err(error),
            };
            if let Err(error) = recorded {
                tracing::warn!(%error, "the end of a stream could not be recorded");
            }
            drop(open);
        });
    }
}
