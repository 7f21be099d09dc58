//! Who calls: registered principals, and the caller's own session.

use keystead_proto::v1;
use keystead_proto::v1::auth_service_client::AuthServiceClient;
use tonic::transport::Channel;

use crate::call::{Caller, MAX_ANSWER_BYTES};
use crate::error::Error;
use crate::pager::Pager;
use crate::retry::Repeat;

const PAGE: u32 = 500;
const NO_RECORD: Error = Error::MalformedAnswer { what: "a principal's answer without its record" };

/// Who calls.
#[derive(Clone, Debug)]
pub struct Auth {
    caller: Caller,
}

impl Auth {
    pub(crate) fn new(caller: Caller) -> Self {
        Self { caller }
    }

    fn rpc(&self) -> AuthServiceClient<Channel> {
        AuthServiceClient::new(self.caller.channel()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Who the server takes the caller for.
    pub async fn who_am_i(&self) -> Result<v1::WhoAmIResponse, Error> {
        self.caller
            .call(Repeat::Safe, v1::WhoAmIRequest {}, |request| {
                let mut rpc = self.rpc();
                async move { rpc.who_am_i(request).await }
            })
            .await
    }

    /// Registers a principal or replaces its record; with an etag, only if it is unchanged since.
    pub async fn put_principal(&self, principal: v1::Principal) -> Result<v1::Principal, Error> {
        let request = v1::PutPrincipalRequest { principal: Some(principal) };
        let answer = self
            .caller
            .call(Repeat::Never, request, |request| {
                let mut rpc = self.rpc();
                async move { rpc.put_principal(request).await }
            })
            .await?;
        answer.principal.ok_or(NO_RECORD)
    }

    /// Reads a principal's record.
    pub async fn principal(&self, name: &str) -> Result<v1::Principal, Error> {
        let request = v1::GetPrincipalRequest { name: name.to_owned() };
        let answer = self
            .caller
            .call(Repeat::Safe, request, |request| {
                let mut rpc = self.rpc();
                async move { rpc.get_principal(request).await }
            })
            .await?;
        answer.principal.ok_or(NO_RECORD)
    }

    /// Lists principals.
    pub fn principals(&self) -> Pager<v1::Principal> {
        let this = self.clone();
        Pager::new(move |page_token| {
            let this = this.clone();
            async move {
                let request = v1::ListPrincipalsRequest { page_size: PAGE, page_token };
                let answer = this
                    .caller
                    .call(Repeat::Safe, request, |request| {
                        let mut rpc = this.rpc();
                        async move { rpc.list_principals(request).await }
                    })
                    .await?;
                Ok((answer.principals, answer.next_page_token))
            }
        })
    }

    /// Removes a principal: its next request is refused.
    pub async fn delete_principal(&self, name: &str) -> Result<(), Error> {
        let request = v1::DeletePrincipalRequest { name: name.to_owned() };
        self.caller
            .call(Repeat::Never, request, |request| {
                let mut rpc = self.rpc();
                async move { rpc.delete_principal(request).await }
            })
            .await
            .map(|_| ())
    }

    /// Ends the session whose token this client uses.
    pub async fn revoke_self(&self) -> Result<(), Error> {
        self.caller
            .call(Repeat::Never, v1::RevokeSelfRequest {}, |request| {
                let mut rpc = self.rpc();
                async move { rpc.revoke_self(request).await }
            })
            .await
            .map(|_| ())
    }
}
