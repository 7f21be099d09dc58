//! What callers may do: Cedar policies. A change takes effect on the next request.

use keystead_proto::v1;
use keystead_proto::v1::policies_service_client::PoliciesServiceClient;
use tonic::transport::Channel;

use crate::call::{Caller, MAX_ANSWER_BYTES};
use crate::error::Error;
use crate::pager::Pager;
use crate::retry::Repeat;

/// A policy may have 64 KiB of text.
const PAGE: u32 = 100;
const NO_RECORD: Error = Error::MalformedAnswer { what: "a policy's answer without the policy" };

/// What callers may do.
#[derive(Clone, Debug)]
pub struct Policies {
    caller: Caller,
}

impl Policies {
    pub(crate) fn new(caller: Caller) -> Self {
        Self { caller }
    }

    fn rpc(&self) -> PoliciesServiceClient<Channel> {
        PoliciesServiceClient::new(self.caller.channel()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Stores a policy; with an etag, only if it is unchanged since.
    pub async fn put(&self, policy: v1::Policy) -> Result<v1::Policy, Error> {
        let request = v1::PutPolicyRequest { policy: Some(policy) };
        let answer = self
            .caller
            .call(Repeat::Never, request, |request| {
                let mut rpc = self.rpc();
                async move { rpc.put_policy(request).await }
            })
            .await?;
        answer.policy.ok_or(NO_RECORD)
    }

    /// Reads a policy.
    pub async fn get(&self, name: &str) -> Result<v1::Policy, Error> {
        let request = v1::GetPolicyRequest { name: name.to_owned() };
        let answer = self
            .caller
            .call(Repeat::Safe, request, |request| {
                let mut rpc = self.rpc();
                async move { rpc.get_policy(request).await }
            })
            .await?;
        answer.policy.ok_or(NO_RECORD)
    }

    /// Lists policies.
    pub fn list(&self) -> Pager<v1::Policy> {
        let this = self.clone();
        Pager::new(move |page_token| {
            let this = this.clone();
            async move {
                let request = v1::ListPoliciesRequest { page_size: PAGE, page_token };
                let answer = this
                    .caller
                    .call(Repeat::Safe, request, |request| {
                        let mut rpc = this.rpc();
                        async move { rpc.list_policies(request).await }
                    })
                    .await?;
                Ok((answer.policies, answer.next_page_token))
            }
        })
    }

    /// Removes a policy.
    pub async fn delete(&self, name: &str) -> Result<(), Error> {
        let request = v1::DeletePolicyRequest { name: name.to_owned() };
        self.caller
            .call(Repeat::Never, request, |request| {
                let mut rpc = self.rpc();
                async move { rpc.delete_policy(request).await }
            })
            .await
            .map(|_| ())
    }

    /// Decides a made-up request without doing it, and says why.
    pub async fn explain(
        &self,
        principal: &str,
        action: &str,
        resource: &str,
    ) -> Result<v1::ExplainPolicyResponse, Error> {
        let request = v1::ExplainPolicyRequest {
            principal: principal.to_owned(),
            action: action.to_owned(),
            resource: resource.to_owned(),
        };
        self.caller
            .call(Repeat::Safe, request, |request| {
                let mut rpc = self.rpc();
                async move { rpc.explain_policy(request).await }
            })
            .await
    }
}
