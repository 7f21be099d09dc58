//! Static roles: logins that somebody else made, whose passwords the vault keeps and changes.

use std::time::{Duration, SystemTime};

use keystead_proto::v1;
use keystead_proto::v1::static_roles_service_client::StaticRolesServiceClient;
use tonic::transport::Channel;

use crate::call::{Caller, MAX_ANSWER_BYTES};
use crate::error::Error;
use crate::leases::{Credential, credential, time};
use crate::pager::Pager;
use crate::retry::Repeat;
use crate::value::SecretBytes;

const PAGE: u32 = 100;
/// Databases answer when they can.
const TARGET: Duration = Duration::from_secs(60);
const NO_ROLE: Error = Error::MalformedAnswer { what: "a static role's answer without the static role" };

/// The login of a static role, with its password.
#[derive(Clone, Debug)]
pub struct StaticCredential {
    /// What to log in with.
    pub credential: Credential,
    /// Changes of the password that is handed out: another number means another password.
    pub version: u64,
    /// When the password is changed next: ask again then. Nothing if only when somebody asks.
    pub next_rotation: Option<SystemTime>,
}

/// Passwords that are given to the vault with a static role: those that its logins have now.
#[derive(Clone, Debug, Default)]
pub struct StaticPasswords {
    /// Of the first login; nothing keeps the one that the vault has.
    pub first: Option<SecretBytes>,
    /// Of the second.
    pub second: Option<SecretBytes>,
}

/// Static roles.
#[derive(Clone, Debug)]
pub struct StaticRoles {
    caller: Caller,
}

impl StaticRoles {
    pub(crate) fn new(caller: Caller) -> Self {
        Self { caller }
    }

    fn rpc(&self) -> StaticRolesServiceClient<Channel> {
        StaticRolesServiceClient::new(self.caller.channel()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Defines a static role or changes it; with an etag, only if it is unchanged since. Each password that is given is tried
    /// before it is kept.
    pub async fn put(
        &self,
        role: v1::StaticRole,
        passwords: StaticPasswords,
    ) -> Result<v1::StaticRole, Error> {
        let bytes =
            |given: Option<SecretBytes>| given.map(|secret| secret.expose().to_vec()).unwrap_or_default();
        let request = v1::PutStaticRoleRequest {
            role: Some(role),
            first_password: bytes(passwords.first),
            second_password: bytes(passwords.second),
        };
        let answer = self
            .caller
            .patient(TARGET)
            .call(Repeat::Never, request, |request| {
                let mut rpc = self.rpc();
                async move { rpc.put_static_role(request).await }
            })
            .await?;
        answer.role.ok_or(NO_ROLE)
    }

    /// Reads a static role, never a password.
    pub async fn get(&self, name: &str) -> Result<v1::StaticRole, Error> {
        let request = v1::GetStaticRoleRequest { name: name.to_owned() };
        let answer = self
            .caller
            .call(Repeat::Safe, request, |request| {
                let mut rpc = self.rpc();
                async move { rpc.get_static_role(request).await }
            })
            .await?;
        answer.role.ok_or(NO_ROLE)
    }

    /// Lists static roles.
    pub fn list(&self) -> Pager<v1::StaticRole> {
        let this = self.clone();
        Pager::new(move |page_token| {
            let this = this.clone();
            async move {
                let request = v1::ListStaticRolesRequest { page_size: PAGE, page_token };
                let answer = this
                    .caller
                    .call(Repeat::Safe, request, |request| {
                        let mut rpc = this.rpc();
                        async move { rpc.list_static_roles(request).await }
                    })
                    .await?;
                Ok((answer.roles, answer.next_page_token))
            }
        })
    }

    /// Forgets a static role. Its logins stay in the target, with passwords that nobody has then.
    pub async fn delete(&self, name: &str) -> Result<(), Error> {
        let request = v1::DeleteStaticRoleRequest { name: name.to_owned() };
        self.caller
            .call(Repeat::Never, request, |request| {
                let mut rpc = self.rpc();
                async move { rpc.delete_static_role(request).await }
            })
            .await
            .map(drop)
    }

    /// Changes the password now; of two logins, that of the one that is not handed out, which is handed out from then on.
    pub async fn rotate(&self, name: &str) -> Result<v1::StaticRole, Error> {
        let request = v1::RotateStaticRoleRequest { name: name.to_owned() };
        let answer = self
            .caller
            .patient(TARGET)
            .call(Repeat::Never, request, |request| {
                let mut rpc = self.rpc();
                async move { rpc.rotate_static_role(request).await }
            })
            .await?;
        answer.role.ok_or(NO_ROLE)
    }

    /// Gets the login that is handed out, with its password.
    pub async fn credential(&self, name: &str) -> Result<StaticCredential, Error> {
        let request = v1::GetStaticCredentialRequest { name: name.to_owned() };
        let answer = self
            .caller
            .call(Repeat::Safe, request, |request| {
                let mut rpc = self.rpc();
                async move { rpc.get_static_credential(request).await }
            })
            .await?;
        let missing = Error::MalformedAnswer { what: "a static role's login without its credential" };
        Ok(StaticCredential {
            credential: credential(answer.credential.ok_or(missing)?)?,
            version: answer.version,
            next_rotation: time(answer.next_rotate_time),
        })
    }
}
