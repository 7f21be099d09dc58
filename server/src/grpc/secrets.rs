//! `SecretsService`.

use futures::stream::{self, StreamExt, TryStreamExt};
use keystead_core::operation;
use keystead_core::secrets::{
    DeleteVersions, DestroyVersions, ListSecrets, PutSecret, ReadSecret, SecretHistory, UndeleteVersions,
};
use keystead_core::vault::OpenVault;
use keystead_domain::secret_version::VersionMeta;
use keystead_proto::v1::secrets_service_server::SecretsService;
use keystead_proto::v1::{
    BatchGetSecretsRequest, BatchGetSecretsResponse, DeleteSecretVersionsRequest,
    DeleteSecretVersionsResponse, DestroySecretVersionsRequest, DestroySecretVersionsResponse,
    GetSecretHistoryRequest, GetSecretHistoryResponse, GetSecretRequest, GetSecretResponse,
    ListSecretsRequest, ListSecretsResponse, PutSecretRequest, PutSecretResponse, SecretVersion,
    UndeleteSecretVersionsRequest, UndeleteSecretVersionsResponse,
};
use prost::Message;
use tonic::{Request, Response, Status};

use super::status::refuse;
use super::{Api, convert};

/// Reads of a batch at most.
const MAX_BATCH: usize = 100;
/// Values of a batch at most: what clients take by default.
const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024 - 4096;
const READS_AT_A_TIME: usize = 8;

fn read_of(request: &GetSecretRequest) -> Result<ReadSecret, Status> {
    let path = convert::path(&request.path).map_err(refuse)?;
    Ok(ReadSecret { path, version: Some(request.version).filter(|version| *version != 0) })
}

async fn read(
    vault: &OpenVault,
    context: keystead_core::request::RequestContext,
    op: ReadSecret,
) -> Result<GetSecretResponse, Status> {
    operation::run(vault, context, op).await.map(convert::secret).map_err(refuse)
}

fn shown(versions: &[VersionMeta]) -> Vec<SecretVersion> {
    versions.iter().map(convert::version).collect()
}

#[tonic::async_trait]
impl SecretsService for Api {
    async fn put_secret(
        &self,
        request: Request<PutSecretRequest>,
    ) -> Result<Response<PutSecretResponse>, Status> {
        let (context, message) = self.open(request)?;
        let op = PutSecret {
            payload: convert::payload(message.value).map_err(refuse)?,
            path: convert::path(&message.path).map_err(refuse)?,
            expected: message.expected_version,
            request_id: convert::request_id(&message.request_id).map_err(refuse)?,
        };
        let vault = self.unsealed().await?;
        let stored = operation::run(&vault, context, op).await.map_err(refuse)?;
        Ok(Response::new(PutSecretResponse { version: Some(convert::version(&stored)) }))
    }

    async fn get_secret(
        &self,
        request: Request<GetSecretRequest>,
    ) -> Result<Response<GetSecretResponse>, Status> {
        let (context, message) = self.open(request)?;
        let op = read_of(&message)?;
        let vault = self.unsealed().await?;
        read(&vault, context, op).await.map(Response::new)
    }

    async fn batch_get_secrets(
        &self,
        request: Request<BatchGetSecretsRequest>,
    ) -> Result<Response<BatchGetSecretsResponse>, Status> {
        let contexts = self.open_many(request, MAX_BATCH, |message| message.requests)?;
        let mut reads = Vec::with_capacity(contexts.len());
        for (context, message) in contexts {
            reads.push((context, read_of(&message)?));
        }
        let vault = self.unsealed().await?;
        let mut answers =
            stream::iter(reads).map(|(context, op)| read(&vault, context, op)).buffered(READS_AT_A_TIME);
        let (mut responses, mut bytes) = (Vec::new(), 0_usize);
        while let Some(response) = answers.try_next().await? {
            bytes = bytes.saturating_add(response.encoded_len());
            if bytes > MAX_BATCH_BYTES {
                let rule =
                    format!("the values together exceed {MAX_BATCH_BYTES} bytes; read fewer at a time");
                return Err(refuse(convert::invalid("requests", rule)));
            }
            responses.push(response);
        }
        Ok(Response::new(BatchGetSecretsResponse { responses }))
    }

    async fn list_secrets(
        &self,
        request: Request<ListSecretsRequest>,
    ) -> Result<Response<ListSecretsResponse>, Status> {
        let (context, message) = self.open(request)?;
        let op = ListSecrets {
            folder: convert::folder(&message.folder).map_err(refuse)?,
            limit: convert::page_size(message.page_size).map_err(refuse)?,
            after: convert::page_token(&message.page_token).map_err(refuse)?,
        };
        let vault = self.unsealed().await?;
        let page = operation::run(&vault, context, op).await.map_err(refuse)?;
        Ok(Response::new(ListSecretsResponse {
            entries: page.entries.into_iter().map(convert::listed).collect(),
            next_page_token: convert::next_page(page.next),
        }))
    }

    async fn get_secret_history(
        &self,
        request: Request<GetSecretHistoryRequest>,
    ) -> Result<Response<GetSecretHistoryResponse>, Status> {
        let (context, message) = self.open(request)?;
        let op = SecretHistory { path: convert::path(&message.path).map_err(refuse)? };
        let vault = self.unsealed().await?;
        let (versions, current_version) = operation::run(&vault, context, op).await.map_err(refuse)?;
        Ok(Response::new(GetSecretHistoryResponse { versions: shown(&versions), current_version }))
    }

    async fn delete_secret_versions(
        &self,
        request: Request<DeleteSecretVersionsRequest>,
    ) -> Result<Response<DeleteSecretVersionsResponse>, Status> {
        let (context, message) = self.open(request)?;
        let op = DeleteVersions {
            path: convert::path(&message.path).map_err(refuse)?,
            versions: convert::versions(message.versions, true).map_err(refuse)?,
        };
        let vault = self.unsealed().await?;
        let versions = operation::run(&vault, context, op).await.map_err(refuse)?;
        Ok(Response::new(DeleteSecretVersionsResponse { versions: shown(&versions) }))
    }

    async fn undelete_secret_versions(
        &self,
        request: Request<UndeleteSecretVersionsRequest>,
    ) -> Result<Response<UndeleteSecretVersionsResponse>, Status> {
        let (context, message) = self.open(request)?;
        let op = UndeleteVersions {
            path: convert::path(&message.path).map_err(refuse)?,
            versions: convert::versions(message.versions, false).map_err(refuse)?,
        };
        let vault = self.unsealed().await?;
        let versions = operation::run(&vault, context, op).await.map_err(refuse)?;
        Ok(Response::new(UndeleteSecretVersionsResponse { versions: shown(&versions) }))
    }

    async fn destroy_secret_versions(
        &self,
        request: Request<DestroySecretVersionsRequest>,
    ) -> Result<Response<DestroySecretVersionsResponse>, Status> {
        let (context, message) = self.open(request)?;
        let op = DestroyVersions {
            path: convert::path(&message.path).map_err(refuse)?,
            versions: convert::versions(message.versions, false).map_err(refuse)?,
        };
        let vault = self.unsealed().await?;
        let destroyed = operation::run(&vault, context, op).await.map_err(refuse)?;
        Ok(Response::new(DestroySecretVersionsResponse {
            versions: shown(&destroyed.versions),
            unrecoverable: destroyed.backup_keys.iter().all(|key| key.destroyed.is_some()),
            unrecoverable_after: destroyed.backup_keys.into_iter().map(convert::backup_key).collect(),
        }))
    }
}
