//! `CredentialsService`.

use keystead_core::credentials::admin::RotateTargetLogin;
use keystead_core::credentials::issue::Delivered;
use keystead_core::credentials::roles::{DeleteRole, ListRoles, ReadRole, VerifyRole};
use keystead_core::credentials::targets::{DeleteTarget, ListTargets, ProbeTarget, ReadTarget};
use keystead_core::fail_points::{self, Step};
use keystead_core::operation;
use keystead_proto::v1;
use keystead_proto::v1::credentials_service_server::CredentialsService;
use tonic::{Code, Request, Response, Status};

use super::convert::{lease, role, target};
use super::status::{self, refuse};
use super::{Api, convert};

/// An engine whose logins lack something: a mistake in the engine.
pub(super) fn unusable() -> Status {
    status::status(Code::Internal, "INTERNAL", "the engine made a login that cannot be handed out")
}

#[tonic::async_trait]
impl CredentialsService for Api {
    async fn put_target(
        &self,
        request: Request<v1::PutTargetRequest>,
    ) -> Result<Response<v1::PutTargetResponse>, Status> {
        let (context, message) = self.open(request)?;
        let op = target::put(message).map_err(refuse)?;
        let vault = self.unsealed().await?;
        let stored = operation::run(&vault, context, op).await.map_err(refuse)?;
        let (target, probe) = target::probed(&stored);
        Ok(Response::new(v1::PutTargetResponse { target: Some(target), probe }))
    }

    async fn get_target(
        &self,
        request: Request<v1::GetTargetRequest>,
    ) -> Result<Response<v1::GetTargetResponse>, Status> {
        let (context, message) = self.open(request)?;
        let op = ReadTarget { name: convert::name("name", &message.name).map_err(refuse)? };
        let vault = self.unsealed().await?;
        let found = operation::run(&vault, context, op).await.map_err(refuse)?;
        let target = Some(target::out(&found.record, &found.etag));
        Ok(Response::new(v1::GetTargetResponse { target }))
    }

    async fn list_targets(
        &self,
        request: Request<v1::ListTargetsRequest>,
    ) -> Result<Response<v1::ListTargetsResponse>, Status> {
        let (context, message) = self.open(request)?;
        let op = ListTargets {
            limit: convert::page_size(message.page_size).map_err(refuse)?,
            after: convert::page_token(&message.page_token).map_err(refuse)?,
        };
        let vault = self.unsealed().await?;
        let page = operation::run(&vault, context, op).await.map_err(refuse)?;
        Ok(Response::new(v1::ListTargetsResponse {
            targets: page.targets.iter().map(|found| target::out(&found.record, &found.etag)).collect(),
            next_page_token: convert::next_page(page.next),
        }))
    }

    async fn delete_target(
        &self,
        request: Request<v1::DeleteTargetRequest>,
    ) -> Result<Response<v1::DeleteTargetResponse>, Status> {
        let (context, message) = self.open(request)?;
        let op = DeleteTarget { name: convert::name("name", &message.name).map_err(refuse)? };
        let vault = self.unsealed().await?;
        operation::run(&vault, context, op).await.map_err(refuse)?;
        Ok(Response::new(v1::DeleteTargetResponse {}))
    }

    async fn check_target(
        &self,
        request: Request<v1::CheckTargetRequest>,
    ) -> Result<Response<v1::CheckTargetResponse>, Status> {
        let (context, message) = self.open(request)?;
        let op = ProbeTarget { name: convert::name("name", &message.name).map_err(refuse)? };
        let vault = self.unsealed().await?;
        let checked = operation::run(&vault, context, op).await.map_err(refuse)?;
        let (target, probe) = target::probed(&checked);
        Ok(Response::new(v1::CheckTargetResponse { target: Some(target), probe }))
    }

    async fn rotate_target_login(
        &self,
        request: Request<v1::RotateTargetLoginRequest>,
    ) -> Result<Response<v1::RotateTargetLoginResponse>, Status> {
        let (context, message) = self.open(request)?;
        let op = RotateTargetLogin { name: convert::name("name", &message.name).map_err(refuse)? };
        let vault = self.unsealed().await?;
        let rotated = operation::run(&vault, context, op).await.map_err(refuse)?;
        let target = Some(target::out(&rotated.record, &rotated.etag));
        Ok(Response::new(v1::RotateTargetLoginResponse { target }))
    }

    async fn get_target_setup(
        &self,
        request: Request<v1::GetTargetSetupRequest>,
    ) -> Result<Response<v1::GetTargetSetupResponse>, Status> {
        let (context, message) = self.open(request)?;
        let op = target::setup(message).map_err(refuse)?;
        let vault = self.unsealed().await?;
        let script = operation::run(&vault, context, op).await.map_err(refuse)?;
        Ok(Response::new(v1::GetTargetSetupResponse { script }))
    }

    async fn put_role(
        &self,
        request: Request<v1::PutRoleRequest>,
    ) -> Result<Response<v1::PutRoleResponse>, Status> {
        let (context, message) = self.open(request)?;
        let op = role::put(message).map_err(refuse)?;
        let vault = self.unsealed().await?;
        let stored = operation::run(&vault, context, op).await.map_err(refuse)?;
        let definition = stored.definition.as_ref().map(role::definition);
        Ok(Response::new(v1::PutRoleResponse { role: Some(role::out(&stored)), definition }))
    }

    async fn get_role(
        &self,
        request: Request<v1::GetRoleRequest>,
    ) -> Result<Response<v1::GetRoleResponse>, Status> {
        let (context, message) = self.open(request)?;
        let op = ReadRole { name: convert::name("name", &message.name).map_err(refuse)? };
        let vault = self.unsealed().await?;
        let found = operation::run(&vault, context, op).await.map_err(refuse)?;
        Ok(Response::new(v1::GetRoleResponse { role: Some(role::out(&found)) }))
    }

    async fn list_roles(
        &self,
        request: Request<v1::ListRolesRequest>,
    ) -> Result<Response<v1::ListRolesResponse>, Status> {
        let (context, message) = self.open(request)?;
        let op = ListRoles {
            limit: convert::page_size(message.page_size).map_err(refuse)?,
            after: convert::page_token(&message.page_token).map_err(refuse)?,
        };
        let vault = self.unsealed().await?;
        let page = operation::run(&vault, context, op).await.map_err(refuse)?;
        Ok(Response::new(v1::ListRolesResponse {
            roles: page.roles.iter().map(role::out).collect(),
            next_page_token: convert::next_page(page.next),
        }))
    }

    async fn delete_role(
        &self,
        request: Request<v1::DeleteRoleRequest>,
    ) -> Result<Response<v1::DeleteRoleResponse>, Status> {
        let (context, message) = self.open(request)?;
        let op = DeleteRole { name: convert::name("name", &message.name).map_err(refuse)? };
        let vault = self.unsealed().await?;
        operation::run(&vault, context, op).await.map_err(refuse)?;
        Ok(Response::new(v1::DeleteRoleResponse {}))
    }

    async fn verify_role(
        &self,
        request: Request<v1::VerifyRoleRequest>,
    ) -> Result<Response<v1::VerifyRoleResponse>, Status> {
        let (context, message) = self.open(request)?;
        let op = VerifyRole { name: convert::name("name", &message.name).map_err(refuse)? };
        let vault = self.unsealed().await?;
        let verified = operation::run(&vault, context, op).await.map_err(refuse)?;
        let definition = verified.definition.as_ref().map(role::definition);
        Ok(Response::new(v1::VerifyRoleResponse { role: Some(role::out(&verified)), definition }))
    }

    async fn issue_credential(
        &self,
        request: Request<v1::IssueCredentialRequest>,
    ) -> Result<Response<v1::IssueCredentialResponse>, Status> {
        let (context, message) = self.open(request)?;
        let op = lease::issue(&message).map_err(refuse)?;
        let vault = self.unsealed().await?;
        let undelivered = operation::run(&vault, context, op).await.map_err(refuse)?;
        fail_points::after(Step::IssueRecorded);
        // From here on the login is its holder's.
        let Delivered { lease: record, credential, excess } = undelivered.deliver().ok_or_else(unusable)?;
        Ok(Response::new(v1::IssueCredentialResponse {
            lease: Some(lease::out(&record)),
            credential: Some(lease::credential(credential).ok_or_else(unusable)?),
            excess: excess.iter().map(target::right).collect(),
        }))
    }
}
