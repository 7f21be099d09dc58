//! What the policies say about a request that nobody made.
//!
//! Invariant: nothing is done. The decision is the policies' alone; whether its principal is let in at all is told beside it.

use keystead_domain::policy::{AccessContext, AccessRequest, Action, Decision, Method, Resource};
use keystead_domain::principal::PrincipalName;

use crate::auth;
use crate::error::VaultError;
use crate::operation::{Detail, Effect, Operation};
use crate::request::Permit;
use crate::unsealed::UnsealedVault;

/// Decides a made-up request.
pub struct ExplainPolicy {
    /// Who would ask.
    pub principal: PrincipalName,
    /// For what.
    pub action: Action,
    /// On what.
    pub resource: Resource,
}

/// What would be decided.
pub struct Explained {
    /// By the policies.
    pub decision: Decision,
    /// The statements that may decide otherwise for the same request made in another way, at another time or from elsewhere.
    pub circumstantial: Vec<String>,
    /// Whether the principal could ask.
    pub standing: Standing,
}

/// Whether a principal is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is registered.
    Registered,
    /// It is registered, and refused.
    Disabled,
    /// Nobody is registered under its name, so it has no groups.
    NotRegistered,
}

impl Operation for ExplainPolicy {
    type Output = Explained;
    const ACTION: Action = Action::PoliciesExplain;
    const EFFECT: Effect = Effect::Read;

    fn resource(&self) -> Resource {
        Resource::System
    }

    fn asked(&self) -> Detail {
        vec![
            ("explained_principal", self.principal.to_string()),
            ("explained_action", self.action.as_str().to_owned()),
            ("explained_resource", self.resource.to_string()),
        ]
    }

    async fn handle(self, vault: &UnsealedVault, permit: Permit<Self>) -> Result<Explained, VaultError> {
        let snapshot = permit.view(vault).await?;
        let record = auth::record_of(vault, &*snapshot, &self.principal).await?;
        let standing = match &record {
            None => Standing::NotRegistered,
            Some(record) if record.disabled => Standing::Disabled,
            Some(_) => Standing::Registered,
        };
        let context = AccessContext {
            method: Method::Certificate,
            now: vault.clock.now(),
            peer: None,
            on_behalf_of: None,
            mfa_age_secs: None,
        };
        let request = AccessRequest {
            principal: &self.principal,
            groups: record.as_ref().map(|record| record.groups.as_slice()).unwrap_or_default(),
            action: self.action,
            resource: &self.resource,
            context: &context,
        };
        let policies = vault.policies.load();
        let (decision, circumstantial) = (policies.decide(&request), policies.circumstantial(&request));
        Ok(Explained { decision, circumstantial, standing })
    }

    fn detail(Explained { decision, .. }: &Explained) -> Detail {
        vec![
            ("explained_decision", decision.verdict.as_str().to_owned()),
            ("explained_policies", decision.determining.join(",")),
        ]
    }
}
