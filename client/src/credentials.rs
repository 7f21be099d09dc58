//! Targets, roles, and the credentials that are issued from them. An issue carries a request id of its own, so that it can be
//! repeated safely after a lost answer.

use std::time::Duration;

use keystead_proto::v1;
use keystead_proto::v1::credentials_service_client::CredentialsServiceClient;
use tonic::transport::Channel;

use crate::call::{Caller, MAX_ANSWER_BYTES, random_request_id};
use crate::error::Error;
use crate::leases::{Credential, Lease, credential, lease, span};
use crate::pager::Pager;
use crate::retry::Repeat;
use crate::value::SecretBytes;

const PAGE: u32 = 100;
/// Databases answer when they can, and adding one asks it for much.
const TARGET: Duration = Duration::from_secs(60);
/// Longer than the vault gives a target to make a login.
const ISSUE: Duration = Duration::from_secs(20);
const NO_TARGET: Error = Error::MalformedAnswer { what: "a target's answer without the target" };
const NO_ROLE: Error = Error::MalformedAnswer { what: "a role's answer without the role" };

/// A target, and what was learnt by using it.
#[derive(Clone, Debug)]
pub struct ProbedTarget {
    /// As stored.
    pub target: v1::Target,
    /// What was learnt; nothing if it was not used.
    pub probe: Option<v1::TargetProbe>,
}

/// A role, and what comes of it in its target.
#[derive(Clone, Debug)]
pub struct DefinedRole {
    /// As stored.
    pub role: v1::Role,
    /// What comes of it; nothing if the target was not asked.
    pub definition: Option<v1::RoleDefinition>,
}

/// How long a period of a lease is to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Period {
    /// As the role says.
    #[default]
    OfRole,
    /// So long, in whole seconds.
    Ttl(Duration),
    /// 180 seconds.
    Fast,
    /// 5,400 seconds.
    Medium,
    /// 86,400 seconds.
    Slow,
}

/// How to issue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IssueOptions {
    /// How long a period is to be.
    pub period: Period,
    /// If set, the id of this request, for repeating it from another process; otherwise a random one.
    pub request_id: Option<String>,
}

/// A credential that was just made. It is the only copy of its secret.
#[derive(Clone, Debug)]
pub struct Issued {
    /// Its lease.
    pub lease: Lease,
    /// What to log in with.
    pub credential: Credential,
    /// What the login can do beyond its role, where the role lets that pass.
    pub excess: Vec<v1::Right>,
}

/// Targets, roles and credentials.
#[derive(Clone, Debug)]
pub struct Credentials {
    caller: Caller,
}

impl Credentials {
    pub(crate) fn new(caller: Caller) -> Self {
        Self { caller }
    }

    pub(crate) fn caller(&self) -> &Caller {
        &self.caller
    }

    fn rpc(&self) -> CredentialsServiceClient<Channel> {
        CredentialsServiceClient::new(self.caller.channel()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Adds a target or changes it; with an etag, only if it is unchanged since. Without a password, the target keeps the
    /// admin login that it has.
    pub async fn put_target(
        &self,
        target: v1::Target,
        admin_password: Option<SecretBytes>,
    ) -> Result<ProbedTarget, Error> {
        let admin_password = admin_password.map(|password| password.expose().to_vec()).unwrap_or_default();
        let request = v1::PutTargetRequest { target: Some(target), admin_password };
        let answer = self
            .caller
            .patient(TARGET)
            .call(Repeat::Never, request, |request| {
                let mut rpc = self.rpc();
                async move { rpc.put_target(request).await }
            })
            .await?;
        Ok(ProbedTarget { target: answer.target.ok_or(NO_TARGET)?, probe: answer.probe })
    }

    /// Reads a target, never its admin login.
    pub async fn target(&self, name: &str) -> Result<v1::Target, Error> {
        let request = v1::GetTargetRequest { name: name.to_owned() };
        let answer = self
            .caller
            .call(Repeat::Safe, request, |request| {
                let mut rpc = self.rpc();
                async move { rpc.get_target(request).await }
            })
            .await?;
        answer.target.ok_or(NO_TARGET)
    }

    /// Lists targets.
    pub fn targets(&self) -> Pager<v1::Target> {
        let this = self.clone();
        Pager::new(move |page_token| {
            let this = this.clone();
            async move {
                let request = v1::ListTargetsRequest { page_size: PAGE, page_token };
                let answer = this
                    .caller
                    .call(Repeat::Safe, request, |request| {
                        let mut rpc = this.rpc();
                        async move { rpc.list_targets(request).await }
                    })
                    .await?;
                Ok((answer.targets, answer.next_page_token))
            }
        })
    }

    /// Removes a target that no role and no live lease needs.
    pub async fn delete_target(&self, name: &str) -> Result<(), Error> {
        let request = v1::DeleteTargetRequest { name: name.to_owned() };
        self.caller
            .patient(TARGET)
            .call(Repeat::Never, request, |request| {
                let mut rpc = self.rpc();
                async move { rpc.delete_target(request).await }
            })
            .await
            .map(drop)
    }

    /// Proves the admin login of a target again, and shows what everybody may do there.
    pub async fn check_target(&self, name: &str) -> Result<ProbedTarget, Error> {
        let request = v1::CheckTargetRequest { name: name.to_owned() };
        let answer = self
            .caller
            .patient(TARGET)
            .call(Repeat::Never, request, |request| {
                let mut rpc = self.rpc();
                async move { rpc.check_target(request).await }
            })
            .await?;
        Ok(ProbedTarget { target: answer.target.ok_or(NO_TARGET)?, probe: answer.probe })
    }

    /// Gives the admin login of a target a password that nobody knows.
    pub async fn rotate_target_login(&self, name: &str) -> Result<v1::Target, Error> {
        let request = v1::RotateTargetLoginRequest { name: name.to_owned() };
        let answer = self
            .caller
            .patient(TARGET)
            .call(Repeat::Never, request, |request| {
                let mut rpc = self.rpc();
                async move { rpc.rotate_target_login(request).await }
            })
            .await?;
        answer.target.ok_or(NO_TARGET)
    }

    /// The statements that an administrator of a PostgreSQL database runs once before it is added as the target `name`.
    pub async fn postgres_setup(&self, name: &str, setup: v1::PostgresSetup) -> Result<String, Error> {
        let kind = Some(v1::get_target_setup_request::Kind::Postgres(setup));
        let request = v1::GetTargetSetupRequest { name: name.to_owned(), kind };
        let answer = self
            .caller
            .call(Repeat::Safe, request, |request| {
                let mut rpc = self.rpc();
                async move { rpc.get_target_setup(request).await }
            })
            .await?;
        Ok(answer.script)
    }

    /// Defines a role, in its target too; with an etag, only if it is unchanged since.
    pub async fn put_role(&self, role: v1::Role) -> Result<DefinedRole, Error> {
        let request = v1::PutRoleRequest { role: Some(role) };
        let answer = self
            .caller
            .patient(TARGET)
            .call(Repeat::Never, request, |request| {
                let mut rpc = self.rpc();
                async move { rpc.put_role(request).await }
            })
            .await?;
        Ok(DefinedRole { role: answer.role.ok_or(NO_ROLE)?, definition: answer.definition })
    }

    /// Reads a role.
    pub async fn role(&self, name: &str) -> Result<v1::Role, Error> {
        let request = v1::GetRoleRequest { name: name.to_owned() };
        let answer = self
            .caller
            .call(Repeat::Safe, request, |request| {
                let mut rpc = self.rpc();
                async move { rpc.get_role(request).await }
            })
            .await?;
        answer.role.ok_or(NO_ROLE)
    }

    /// Lists roles.
    pub fn roles(&self) -> Pager<v1::Role> {
        let this = self.clone();
        Pager::new(move |page_token| {
            let this = this.clone();
            async move {
                let request = v1::ListRolesRequest { page_size: PAGE, page_token };
                let answer = this
                    .caller
                    .call(Repeat::Safe, request, |request| {
                        let mut rpc = this.rpc();
                        async move { rpc.list_roles(request).await }
                    })
                    .await?;
                Ok((answer.roles, answer.next_page_token))
            }
        })
    }

    /// Removes a role that has no live lease, from its target too.
    pub async fn delete_role(&self, name: &str) -> Result<(), Error> {
        let request = v1::DeleteRoleRequest { name: name.to_owned() };
        self.caller
            .patient(TARGET)
            .call(Repeat::Never, request, |request| {
                let mut rpc = self.rpc();
                async move { rpc.delete_role(request).await }
            })
            .await
            .map(drop)
    }

    /// Shows a role's statements and what its logins can do; leaves nothing behind.
    pub async fn verify_role(&self, name: &str) -> Result<DefinedRole, Error> {
        let request = v1::VerifyRoleRequest { name: name.to_owned() };
        let answer = self
            .caller
            .patient(TARGET)
            .call(Repeat::Safe, request, |request| {
                let mut rpc = self.rpc();
                async move { rpc.verify_role(request).await }
            })
            .await?;
        Ok(DefinedRole { role: answer.role.ok_or(NO_ROLE)?, definition: answer.definition })
    }

    /// Makes a login of a role, for as long as the role says.
    pub async fn issue(&self, role: &str) -> Result<Issued, Error> {
        self.issue_with(role, IssueOptions::default()).await
    }

    /// Makes a login of a role.
    pub async fn issue_with(&self, role: &str, options: IssueOptions) -> Result<Issued, Error> {
        let request_id = match options.request_id {
            Some(id) => id,
            None => random_request_id()?,
        };
        let period = options.period.to_wire()?;
        let request = v1::IssueCredentialRequest { role: role.to_owned(), period, request_id };
        let answer = self
            .caller
            .patient(ISSUE)
            .call(Repeat::Safe, request, |request| {
                let mut rpc = self.rpc();
                async move { rpc.issue_credential(request).await }
            })
            .await?;
        let missing = Error::MalformedAnswer { what: "an issue without its credential" };
        Ok(Issued {
            lease: lease(answer.lease)?,
            credential: credential(answer.credential.ok_or(missing)?)?,
            excess: answer.excess,
        })
    }
}

impl Period {
    fn to_wire(self) -> Result<Option<v1::issue_credential_request::Period>, Error> {
        use v1::issue_credential_request::Period as Wire;
        let class = |class: v1::LeaseClass| Some(Wire::Class(class.into()));
        Ok(match self {
            Self::OfRole => None,
            Self::Ttl(ttl) => Some(Wire::Ttl(span(ttl)?)),
            Self::Fast => class(v1::LeaseClass::Fast),
            Self::Medium => class(v1::LeaseClass::Medium),
            Self::Slow => class(v1::LeaseClass::Slow),
        })
    }
}
