//! `AuditService`.

use std::pin::Pin;

use futures::{Stream, StreamExt};
use keystead_audit::Body;
use keystead_core::audit_tail::{Opened, TailAudit};
use keystead_core::operation;
use keystead_domain::time::UnixMillis;
use keystead_proto::v1;
use keystead_proto::v1::audit_service_server::AuditService;
use std::sync::Arc;
use tonic::{Request, Response, Status};

use super::status::{log_failure, refuse};
use super::{Api, convert};

const MAX_LAST: u32 = 10_000;

fn shown(opened: Opened) -> v1::AuditEntry {
    let body = opened.body.unwrap_or_else(|| Body { outcome: "(sealed)".into(), ..Body::default() });
    v1::AuditEntry {
        sequence: opened.seq,
        node: opened.node,
        time: Some(convert::timestamp(UnixMillis(opened.time))),
        kind: opened.kind.as_str().to_owned(),
        principal: body.principal,
        method: body.method.into_owned(),
        peer: body.peer.unwrap_or_default(),
        action: body.action.into_owned(),
        resource: body.resource,
        decision: body.decision.into_owned(),
        policies: body.policies,
        outcome: body.outcome.into_owned(),
        request_id: body.request_id.unwrap_or_default(),
        trace_id: body.trace_id.unwrap_or_default(),
        latency_us: body.latency_us.unwrap_or_default(),
        intent: body.intent,
        detail: body.detail.into_iter().collect(),
    }
}

#[tonic::async_trait]
impl AuditService for Api {
    type TailAuditStream = Pin<Box<dyn Stream<Item = Result<v1::TailAuditResponse, Status>> + Send>>;

    async fn tail_audit(
        &self,
        request: Request<v1::TailAuditRequest>,
    ) -> Result<Response<Self::TailAuditStream>, Status> {
        let (context, counts, message) = self.open_stream(request)?;
        if message.last > MAX_LAST {
            return Err(refuse(convert::invalid("last", format!("at most {MAX_LAST} entries"))));
        }
        let request_id = context.request_id.clone();
        let op = TailAudit::new(self.vault(), u64::from(message.last), message.follow);
        let vault = Arc::clone(self.vault());
        let entries = operation::run_stream(vault, context, counts, op).await.map_err(refuse)?;
        let answers = entries.map(move |entry| match entry {
            Ok(entry) => Ok(v1::TailAuditResponse { entry: Some(shown(entry)) }),
            Err(error) => {
                let status = refuse(error);
                log_failure(&status, request_id.as_str());
                Err(status)
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }
}
