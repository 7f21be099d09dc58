//! The end of a stream, recorded however it ends: at its end, with an error, or when its caller hangs up.
//!
//! Invariant: it holds no key. A vault that has sealed meanwhile ended every stream, and its own entry says so. It is
//! recorded in a task of its own: nobody polls a stream whose caller takes nothing or went away, and recording holds the
//! vault open.

use std::sync::Arc;

use keystead_domain::policy::{Action, Resource};

use super::Entry;
use crate::error::VaultError;
use crate::request::{Caller, RequestContext};
use crate::vault::{OpenVault, Vault, to_its_end};

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
        self.recorded = true;
        let Ok(open) = self.vault.unsealed() else { return Ok(()) };
        to_its_end("recording the end of a stream", self.recording(open, outcome)).await
    }

    fn recording(
        &self,
        open: OpenVault,
        outcome: &'static str,
    ) -> impl Future<Output = Result<(), VaultError>> + Send + 'static {
        let mut entry = Entry::begin(&open, &self.ctx, self.action, self.resource.clone());
        entry.identified(&self.caller);
        async move {
            let reserved = entry.reserve(1).await?;
            let recorded = entry.record_stream_end(reserved, outcome).await;
            drop(open);
            recorded
        }
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
        let recording = self.recording(open, HUNG_UP);
        runtime.spawn(async move {
            if let Err(error) = recording.await {
                tracing::warn!(%error, "the end of a stream could not be recorded");
            }
        });
    }
}
