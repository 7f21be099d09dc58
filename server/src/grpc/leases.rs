//! `LeasesService`.

use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use keystead_core::leases::{
    AcceptClock, ListLeases, ReadLease, RenewLease, RevokeLease, RevokeLeases, WatchLease,
};
use keystead_core::operation;
use keystead_proto::v1;
use keystead_proto::v1::leases_service_server::LeasesService;
use tonic::{Request, Response, Status};

use super::convert::lease;
use super::credentials::unusable;
use super::status::{log_failure, refuse};
use super::{Api, convert};

#[tonic::async_trait]
impl LeasesService for Api {
    async fn get_lease(
        &self,
        request: Request<v1::GetLeaseRequest>,
    ) -> Result<Response<v1::GetLeaseResponse>, Status> {
        let (context, message) = self.open(request)?;
        let op = ReadLease { id: lease::id(&message.id).map_err(refuse)? };
        let vault = self.unsealed().await?;
        let found = operation::run(&vault, context, op).await.map_err(refuse)?;
        Ok(Response::new(v1::GetLeaseResponse { lease: Some(lease::out(&found)) }))
    }

    type WatchLeaseStream = Pin<Box<dyn Stream<Item = Result<v1::WatchLeaseResponse, Status>> + Send>>;

    async fn watch_lease(
        &self,
        request: Request<v1::WatchLeaseRequest>,
    ) -> Result<Response<Self::WatchLeaseStream>, Status> {
        let (context, counts, message) = self.open_stream(request)?;
        let request_id = context.request_id.clone();
        let op = WatchLease::new(lease::id(&message.id).map_err(refuse)?);
        let vault = Arc::clone(self.vault());
        let changes = operation::run_stream(vault, context, counts, op).await.map_err(refuse)?;
        let answers = changes.map(move |change| match change {
            Ok(found) => Ok(v1::WatchLeaseResponse { lease: Some(lease::out(&found)) }),
            Err(error) => {
                let status = refuse(error);
                log_failure(&status, request_id.as_str());
                Err(status)
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn list_leases(
        &self,
        request: Request<v1::ListLeasesRequest>,
    ) -> Result<Response<v1::ListLeasesResponse>, Status> {
        let (context, message) = self.open(request)?;
        let op = ListLeases {
            of: lease::selector(message.of).map_err(refuse)?,
            limit: convert::page_size(message.page_size).map_err(refuse)?,
            after: convert::page_token(&message.page_token).map_err(refuse)?,
        };
        let vault = self.unsealed().await?;
        let page = operation::run(&vault, context, op).await.map_err(refuse)?;
        Ok(Response::new(v1::ListLeasesResponse {
            leases: page.leases.iter().map(lease::out).collect(),
            next_page_token: convert::next_page(page.next),
        }))
    }

    async fn renew_lease(
        &self,
        request: Request<v1::RenewLeaseRequest>,
    ) -> Result<Response<v1::RenewLeaseResponse>, Status> {
        let (context, message) = self.open(request)?;
        let op = RenewLease {
            id: lease::id(&message.id).map_err(refuse)?,
            ttl: convert::ttl("ttl", message.ttl).map_err(refuse)?,
        };
        let vault = self.unsealed().await?;
        let renewed = operation::run(&vault, context, op).await.map_err(refuse)?;
        let credential = match renewed.credential {
            Some(credential) => Some(lease::credential(credential).ok_or_else(unusable)?),
            None => None,
        };
        Ok(Response::new(v1::RenewLeaseResponse { lease: Some(lease::out(&renewed.lease)), credential }))
    }

    async fn revoke_lease(
        &self,
        request: Request<v1::RevokeLeaseRequest>,
    ) -> Result<Response<v1::RevokeLeaseResponse>, Status> {
        let (context, message) = self.open(request)?;
        let op = RevokeLease { id: lease::id(&message.id).map_err(refuse)?, force: message.force };
        let vault = self.unsealed().await?;
        let revoked = operation::run(&vault, context, op).await.map_err(refuse)?;
        Ok(Response::new(v1::RevokeLeaseResponse { lease: revoked.as_ref().map(lease::out) }))
    }

    async fn revoke_leases(
        &self,
        request: Request<v1::RevokeLeasesRequest>,
    ) -> Result<Response<v1::RevokeLeasesResponse>, Status> {
        let (context, message) = self.open(request)?;
        let op = RevokeLeases { of: lease::selector(message.of).map_err(refuse)? };
        let vault = self.unsealed().await?;
        let marked = operation::run(&vault, context, op).await.map_err(refuse)?;
        Ok(Response::new(v1::RevokeLeasesResponse { leases: marked.leases }))
    }

    async fn accept_clock(
        &self,
        request: Request<v1::AcceptClockRequest>,
    ) -> Result<Response<v1::AcceptClockResponse>, Status> {
        let (context, _) = self.open(request)?;
        let vault = self.unsealed().await?;
        let state = operation::run(&vault, context, AcceptClock).await.map_err(refuse)?;
        Ok(Response::new(lease::clock(state)))
    }
}
