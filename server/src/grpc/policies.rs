//! `PoliciesService`.

use keystead_core::operation;
use keystead_core::policies::{
    DeletePolicy, ExplainPolicy, Explained, ListPolicies, Policy, PutPolicy, ReadPolicy, Standing,
};
use keystead_domain::policy::{Action, Resource, Verdict};
use keystead_proto::v1;
use keystead_proto::v1::policies_service_server::PoliciesService;
use tonic::{Request, Response, Status};

use super::status::refuse;
use super::{Api, convert};

fn shown(policy: Policy) -> v1::Policy {
    v1::Policy {
        name: policy.record.name.as_str().to_owned(),
        text: policy.record.text,
        update_time: Some(convert::timestamp(policy.record.updated)),
        etag: policy.etag,
    }
}

#[tonic::async_trait]
impl PoliciesService for Api {
    async fn put_policy(
        &self,
        request: Request<v1::PutPolicyRequest>,
    ) -> Result<Response<v1::PutPolicyResponse>, Status> {
        let (context, message) = self.open(request)?;
        let policy = message.policy.ok_or_else(|| refuse(convert::invalid("policy", "is missing")))?;
        let op = PutPolicy {
            name: convert::policy_name(&policy.name).map_err(refuse)?,
            text: policy.text,
            etag: Some(policy.etag).filter(|etag| !etag.is_empty()),
        };
        let vault = self.unsealed().await?;
        let stored = operation::run(&vault, context, op).await.map_err(refuse)?;
        Ok(Response::new(v1::PutPolicyResponse { policy: Some(shown(stored)) }))
    }

    async fn get_policy(
        &self,
        request: Request<v1::GetPolicyRequest>,
    ) -> Result<Response<v1::GetPolicyResponse>, Status> {
        let (context, message) = self.open(request)?;
        let op = ReadPolicy { name: convert::policy_name(&message.name).map_err(refuse)? };
        let vault = self.unsealed().await?;
        let policy = operation::run(&vault, context, op).await.map_err(refuse)?;
        Ok(Response::new(v1::GetPolicyResponse { policy: Some(shown(policy)) }))
    }

    async fn list_policies(
        &self,
        request: Request<v1::ListPoliciesRequest>,
    ) -> Result<Response<v1::ListPoliciesResponse>, Status> {
        let (context, message) = self.open(request)?;
        let op = ListPolicies {
            limit: convert::page_size(message.page_size).map_err(refuse)?,
            after: convert::page_token(&message.page_token).map_err(refuse)?,
        };
        let vault = self.unsealed().await?;
        let page = operation::run(&vault, context, op).await.map_err(refuse)?;
        Ok(Response::new(v1::ListPoliciesResponse {
            policies: page.policies.into_iter().map(shown).collect(),
            next_page_token: convert::next_page(page.next),
        }))
    }

    async fn delete_policy(
        &self,
        request: Request<v1::DeletePolicyRequest>,
    ) -> Result<Response<v1::DeletePolicyResponse>, Status> {
        let (context, message) = self.open(request)?;
        let op = DeletePolicy { name: convert::policy_name(&message.name).map_err(refuse)? };
        let vault = self.unsealed().await?;
        operation::run(&vault, context, op).await.map_err(refuse)?;
        Ok(Response::new(v1::DeletePolicyResponse {}))
    }

    async fn explain_policy(
        &self,
        request: Request<v1::ExplainPolicyRequest>,
    ) -> Result<Response<v1::ExplainPolicyResponse>, Status> {
        let (context, message) = self.open(request)?;
        let op = ExplainPolicy {
            principal: convert::registered_name(&message.principal).map_err(refuse)?,
            action: Action::parse(&message.action)
                .map_err(|error| refuse(convert::invalid("action", error)))?,
            resource: Resource::parse(&message.resource)
                .map_err(|error| refuse(convert::invalid("resource", error)))?,
        };
        let vault = self.unsealed().await?;
        let Explained { decision, circumstantial, standing } =
            operation::run(&vault, context, op).await.map_err(refuse)?;
        let verdict = match decision.verdict {
            Verdict::Allow => v1::PolicyDecision::Allow,
            Verdict::Deny => v1::PolicyDecision::Deny,
            Verdict::NeedsApproval => v1::PolicyDecision::NeedsApproval,
        };
        let standing = match standing {
            Standing::Registered => v1::PrincipalStanding::Registered,
            Standing::Disabled => v1::PrincipalStanding::Disabled,
            Standing::NotRegistered => v1::PrincipalStanding::NotRegistered,
        };
        Ok(Response::new(v1::ExplainPolicyResponse {
            decision: verdict.into(),
            determining: decision.determining,
            errors: decision.errors,
            principal_standing: standing.into(),
            circumstantial,
        }))
    }
}
