//! `AuthService`.

use keystead_core::auth::{
    DeletePrincipal, ListPrincipals, Principal, PutPrincipal, ReadPrincipal, RevokeSelf, WhoAmI,
};
use keystead_core::error::VaultError;
use keystead_core::operation;
use keystead_domain::principal::PrincipalRecord;
use keystead_domain::time::UnixMillis;
use keystead_proto::v1;
use keystead_proto::v1::auth_service_server::AuthService;
use tonic::{Request, Response, Status};

use super::status::refuse;
use super::{Api, convert};

fn shown(principal: Principal) -> v1::Principal {
    let record = principal.record;
    v1::Principal {
        name: record.name.to_string(),
        groups: record.groups.iter().map(|group| group.as_str().to_owned()).collect(),
        certificates: record.matchers.iter().map(convert::matcher_out).collect(),
        disabled: record.disabled,
        create_time: Some(convert::timestamp(record.created)),
        etag: principal.etag,
    }
}

fn record(principal: &v1::Principal) -> Result<PrincipalRecord, VaultError> {
    let record = PrincipalRecord {
        name: convert::principal_name(&principal.name)?,
        groups: principal.groups.iter().map(|group| convert::group(group)).collect::<Result<_, _>>()?,
        matchers: principal.certificates.iter().map(convert::matcher).collect::<Result<_, _>>()?,
        disabled: principal.disabled,
        created: UnixMillis(0),
    };
    record.check().map_err(|error| convert::invalid("principal", error))?;
    Ok(record)
}

#[tonic::async_trait]
impl AuthService for Api {
    async fn who_am_i(
        &self,
        request: Request<v1::WhoAmIRequest>,
    ) -> Result<Response<v1::WhoAmIResponse>, Status> {
        let (context, _) = self.open(request)?;
        let vault = self.unsealed().await?;
        let answer = operation::run(&vault, context, WhoAmI).await.map_err(refuse)?;
        Ok(Response::new(v1::WhoAmIResponse {
            principal: answer.principal.to_string(),
            groups: answer.groups.iter().map(|group| group.as_str().to_owned()).collect(),
            method: answer.method.as_str().to_owned(),
            expire_time: Some(convert::timestamp(answer.expires)),
        }))
    }

    async fn put_principal(
        &self,
        request: Request<v1::PutPrincipalRequest>,
    ) -> Result<Response<v1::PutPrincipalResponse>, Status> {
        let (context, message) = self.open(request)?;
        let principal =
            message.principal.ok_or_else(|| refuse(convert::invalid("principal", "is missing")))?;
        let op = PutPrincipal {
            record: record(&principal).map_err(refuse)?,
            etag: Some(principal.etag).filter(|etag| !etag.is_empty()),
        };
        let vault = self.unsealed().await?;
        let stored = operation::run(&vault, context, op).await.map_err(refuse)?;
        Ok(Response::new(v1::PutPrincipalResponse { principal: Some(shown(stored)) }))
    }

    async fn get_principal(
        &self,
        request: Request<v1::GetPrincipalRequest>,
    ) -> Result<Response<v1::GetPrincipalResponse>, Status> {
        let (context, message) = self.open(request)?;
        let op = ReadPrincipal { name: convert::registered_name(&message.name).map_err(refuse)? };
        let vault = self.unsealed().await?;
        let principal = operation::run(&vault, context, op).await.map_err(refuse)?;
        Ok(Response::new(v1::GetPrincipalResponse { principal: Some(shown(principal)) }))
    }

    async fn list_principals(
        &self,
        request: Request<v1::ListPrincipalsRequest>,
    ) -> Result<Response<v1::ListPrincipalsResponse>, Status> {
        let (context, message) = self.open(request)?;
        let op = ListPrincipals {
            limit: convert::page_size(message.page_size).map_err(refuse)?,
            after: convert::page_token(&message.page_token).map_err(refuse)?,
        };
        let vault = self.unsealed().await?;
        let page = operation::run(&vault, context, op).await.map_err(refuse)?;
        Ok(Response::new(v1::ListPrincipalsResponse {
            principals: page.principals.into_iter().map(shown).collect(),
            next_page_token: convert::next_page(page.next),
        }))
    }

    async fn delete_principal(
        &self,
        request: Request<v1::DeletePrincipalRequest>,
    ) -> Result<Response<v1::DeletePrincipalResponse>, Status> {
        let (context, message) = self.open(request)?;
        let op = DeletePrincipal { name: convert::registered_name(&message.name).map_err(refuse)? };
        let vault = self.unsealed().await?;
        operation::run(&vault, context, op).await.map_err(refuse)?;
        Ok(Response::new(v1::DeletePrincipalResponse {}))
    }

    async fn revoke_self(
        &self,
        request: Request<v1::RevokeSelfRequest>,
    ) -> Result<Response<v1::RevokeSelfResponse>, Status> {
        let (context, _) = self.open(request)?;
        let vault = self.unsealed().await?;
        operation::run(&vault, context, RevokeSelf).await.map_err(refuse)?;
        Ok(Response::new(v1::RevokeSelfResponse {}))
    }
}
