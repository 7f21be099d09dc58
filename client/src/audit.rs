//! Reads the audit log as a stream. Following has no deadline: it ends when the server or the reader ends it.

use keystead_proto::v1;
use keystead_proto::v1::audit_service_client::AuditServiceClient;
use tokio::time::timeout;
use tonic::{Status, Streaming};

use crate::call::Caller;
use crate::error::Error;

/// The audit log.
#[derive(Clone, Debug)]
pub struct Audit {
    caller: Caller,
}

impl Audit {
    pub(crate) fn new(caller: Caller) -> Self {
        Self { caller }
    }

    /// The newest `last` entries (at most 10,000), oldest first; with `follow`, also those to come.
    pub async fn tail(&self, last: u32, follow: bool) -> Result<AuditEntries, Error> {
        let mut rpc = AuditServiceClient::new(self.caller.channel());
        let mut request = self.caller.request(v1::TailAuditRequest { last, follow });
        if !follow {
            request.set_timeout(self.caller.deadline());
        }
        let entries = timeout(self.caller.deadline(), rpc.tail_audit(request))
            .await
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("")))
            .map_err(|status| self.caller.error(status))?
            .into_inner();
        Ok(AuditEntries { entries, caller: self.caller.clone() })
    }
}

/// Audit entries as they come.
#[derive(Debug)]
pub struct AuditEntries {
    entries: Streaming<v1::TailAuditResponse>,
    caller: Caller,
}

impl AuditEntries {
    /// The next entry, or `None` at the end.
    pub async fn next(&mut self) -> Result<Option<v1::AuditEntry>, Error> {
        match self.entries.message().await.map_err(|status| self.caller.error(status))? {
            None => Ok(None),
            Some(v1::TailAuditResponse { entry: Some(entry) }) => Ok(Some(entry)),
            Some(v1::TailAuditResponse { entry: None }) => {
                Err(Error::MalformedAnswer { what: "an audit message without an entry" })
            }
        }
    }
}
