//! `StaticRolesService`.

use keystead_core::credentials::static_roles::credential::ReadStaticCredential;
use keystead_core::credentials::static_roles::rotate::RotateStaticRole;
use keystead_core::credentials::static_roles::{DeleteStaticRole, ListStaticRoles, ReadStaticRole};
use keystead_core::operation;
use keystead_proto::v1;
use keystead_proto::v1::static_roles_service_server::StaticRolesService;
use tonic::{Request, Response, Status};

use super::convert::{lease, static_role};
use super::credentials::unusable;
use super::status::refuse;
use super::{Api, convert};

#[tonic::async_trait]
impl StaticRolesService for Api {
    async fn put_static_role(
        &self,
        request: Request<v1::PutStaticRoleRequest>,
    ) -> Result<Response<v1::PutStaticRoleResponse>, Status> {
        let (context, message) = self.open(request)?;
        let op = static_role::put(message).map_err(refuse)?;
        let vault = self.unsealed().await?;
        let stored = operation::run(&vault, context, op).await.map_err(refuse)?;
        Ok(Response::new(v1::PutStaticRoleResponse { role: Some(static_role::out(&stored)) }))
    }

    async fn get_static_role(
        &self,
        request: Request<v1::GetStaticRoleRequest>,
    ) -> Result<Response<v1::GetStaticRoleResponse>, Status> {
        let (context, message) = self.open(request)?;
        let op = ReadStaticRole { name: convert::name("name", &message.name).map_err(refuse)? };
        let vault = self.unsealed().await?;
        let found = operation::run(&vault, context, op).await.map_err(refuse)?;
        Ok(Response::new(v1::GetStaticRoleResponse { role: Some(static_role::out(&found)) }))
    }

    async fn list_static_roles(
        &self,
        request: Request<v1::ListStaticRolesRequest>,
    ) -> Result<Response<v1::ListStaticRolesResponse>, Status> {
        let (context, message) = self.open(request)?;
        let op = ListStaticRoles {
            limit: convert::page_size(message.page_size).map_err(refuse)?,
            after: convert::page_token(&message.page_token).map_err(refuse)?,
        };
        let vault = self.unsealed().await?;
        let page = operation::run(&vault, context, op).await.map_err(refuse)?;
        Ok(Response::new(v1::ListStaticRolesResponse {
            roles: page.roles.iter().map(static_role::out).collect(),
            next_page_token: convert::next_page(page.next),
        }))
    }

    async fn delete_static_role(
        &self,
        request: Request<v1::DeleteStaticRoleRequest>,
    ) -> Result<Response<v1::DeleteStaticRoleResponse>, Status> {
        let (context, message) = self.open(request)?;
        let op = DeleteStaticRole { name: convert::name("name", &message.name).map_err(refuse)? };
        let vault = self.unsealed().await?;
        operation::run(&vault, context, op).await.map_err(refuse)?;
        Ok(Response::new(v1::DeleteStaticRoleResponse {}))
    }

    async fn rotate_static_role(
        &self,
        request: Request<v1::RotateStaticRoleRequest>,
    ) -> Result<Response<v1::RotateStaticRoleResponse>, Status> {
        let (context, message) = self.open(request)?;
        let op = RotateStaticRole { name: convert::name("name", &message.name).map_err(refuse)? };
        let vault = self.unsealed().await?;
        let rotated = operation::run(&vault, context, op).await.map_err(refuse)?;
        Ok(Response::new(v1::RotateStaticRoleResponse { role: Some(static_role::out(&rotated)) }))
    }

    async fn get_static_credential(
        &self,
        request: Request<v1::GetStaticCredentialRequest>,
    ) -> Result<Response<v1::GetStaticCredentialResponse>, Status> {
        let (context, message) = self.open(request)?;
        let op = ReadStaticCredential { name: convert::name("name", &message.name).map_err(refuse)? };
        let vault = self.unsealed().await?;
        let read = operation::run(&vault, context, op).await.map_err(refuse)?;
        Ok(Response::new(v1::GetStaticCredentialResponse {
            version: read.record.schedule.handed_out_version(),
            next_rotate_time: read.record.schedule.next.map(convert::timestamp),
            credential: Some(lease::credential(read.credential).ok_or_else(unusable)?),
        }))
    }
}
