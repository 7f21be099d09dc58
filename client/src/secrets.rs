//! Versioned secrets. A put carries a request id of its own, so that it can be repeated safely after a lost answer.

use std::time::SystemTime;

use keystead_proto::v1;
use keystead_proto::v1::secrets_service_client::SecretsServiceClient;
use tonic::transport::Channel;

use crate::call::{Caller, MAX_ANSWER_BYTES, random_request_id};
use crate::error::{Error, MissingField};
use crate::pager::Pager;
use crate::retry::Repeat;
use crate::value::{SecretBytes, SecretValue};

const PAGE: u32 = 500;

/// One version of a secret, opened.
#[derive(Clone, Debug)]
pub struct Secret {
    /// Which version this is.
    pub version: SecretVersion,
    /// Its value.
    pub value: SecretValue,
}

impl Secret {
    /// The field of this name.
    pub fn field(&self, name: &str) -> Result<&SecretBytes, MissingField> {
        let is_data = matches!(self.value, SecretValue::Data(_));
        self.value.field(name).ok_or_else(|| MissingField { field: name.to_owned(), is_data })
    }
}

/// What is known of a version without its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretVersion {
    /// Counts from 1.
    pub version: u64,
    /// Its state.
    pub state: VersionState,
    /// When it was stored.
    pub created: Option<SystemTime>,
    /// Who stored it.
    pub created_by: String,
    /// When it was last deleted, if it is.
    pub deleted: Option<SystemTime>,
    /// When it was destroyed, if it was.
    pub destroyed: Option<SystemTime>,
    /// The size of the value in bytes.
    pub size_bytes: u32,
}

/// The life of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum VersionState {
    /// Readable.
    Active,
    /// Hidden; can be undeleted.
    Deleted,
    /// Its data key is gone.
    Destroyed,
    /// A state that this client does not know.
    Unknown,
}

/// The versions of a secret, newest first.
#[derive(Clone, Debug)]
pub struct History {
    /// Newest first.
    pub versions: Vec<SecretVersion>,
    /// The version that the next put must expect.
    pub current_version: u64,
}

/// What destroying did.
#[derive(Clone, Debug)]
pub struct DestroyedVersions {
    /// The versions as they are now.
    pub versions: Vec<SecretVersion>,
    /// Copies in older backups open, for whoever has Q, until each of these keys is destroyed.
    pub unrecoverable_after: Vec<v1::BackupKey>,
    /// None of them is left.
    pub unrecoverable: bool,
}

/// One child of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListEntry {
    /// Its segment.
    pub name: String,
    /// There is a secret at this path.
    pub is_secret: bool,
    /// There are paths below it.
    pub is_folder: bool,
}

/// How to put.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PutOptions {
    /// If set, the current version must be this one; 0 means that the secret must not exist.
    pub expected_version: Option<u64>,
    /// If set, the id of this write, for repeating it from another process; otherwise a random one.
    pub request_id: Option<String>,
}

/// Versioned secrets.
#[derive(Clone, Debug)]
pub struct Secrets {
    caller: Caller,
}

impl Secrets {
    pub(crate) fn new(caller: Caller) -> Self {
        Self { caller }
    }

    fn rpc(&self) -> SecretsServiceClient<Channel> {
        SecretsServiceClient::new(self.caller.channel()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Reads the latest version that is active.
    pub async fn get(&self, path: &str) -> Result<Secret, Error> {
        self.get_version(path, 0).await
    }

    /// Reads one version.
    pub async fn get_version(&self, path: &str, version: u64) -> Result<Secret, Error> {
        let request = v1::GetSecretRequest { path: path.to_owned(), version };
        let answer = self
            .caller
            .call(Repeat::Safe, request, |request| {
                let mut rpc = self.rpc();
                async move { rpc.get_secret(request).await }
            })
            .await?;
        opened(answer)
    }

    /// Reads the latest versions of up to 100 secrets, in the order asked. One that is refused refuses them all.
    pub async fn batch_get<P: AsRef<str>>(
        &self,
        paths: impl IntoIterator<Item = P>,
    ) -> Result<Vec<Secret>, Error> {
        let requests: Vec<_> = paths
            .into_iter()
            .map(|path| v1::GetSecretRequest { path: path.as_ref().to_owned(), version: 0 })
            .collect();
        let asked = requests.len();
        let answer = self
            .caller
            .call(Repeat::Safe, v1::BatchGetSecretsRequest { requests }, |request| {
                let mut rpc = self.rpc();
                async move { rpc.batch_get_secrets(request).await }
            })
            .await?;
        if answer.responses.len() != asked {
            return Err(Error::MalformedAnswer {
                what: "a batch read has another number of answers than of reads",
            });
        }
        answer.responses.into_iter().map(opened).collect()
    }

    /// Stores a new version, whatever is there.
    pub async fn put(&self, path: &str, value: SecretValue) -> Result<SecretVersion, Error> {
        self.put_with(path, value, PutOptions::default()).await
    }

    /// Stores a new version if the current one is `expected`; 0 means that the secret must not exist.
    pub async fn put_expecting(
        &self,
        path: &str,
        value: SecretValue,
        expected: u64,
    ) -> Result<SecretVersion, Error> {
        self.put_with(path, value, PutOptions { expected_version: Some(expected), request_id: None }).await
    }

    /// Stores a new version.
    pub async fn put_with(
        &self,
        path: &str,
        value: SecretValue,
        options: PutOptions,
    ) -> Result<SecretVersion, Error> {
        let request_id = match options.request_id {
            Some(id) => id,
            None => random_request_id()?,
        };
        let request = v1::PutSecretRequest {
            path: path.to_owned(),
            value: Some(value.to_wire()),
            expected_version: options.expected_version,
            request_id,
        };
        let answer = self
            .caller
            .call(Repeat::Safe, request, |request| {
                let mut rpc = self.rpc();
                async move { rpc.put_secret(request).await }
            })
            .await?;
        answer
            .version
            .map(SecretVersion::from)
            .ok_or(Error::MalformedAnswer { what: "a put without its version" })
    }

    /// Lists the children of a folder (empty means the root), in a stable order that is not alphabetical.
    pub fn list(&self, folder: &str) -> Pager<ListEntry> {
        let (this, folder) = (self.clone(), folder.to_owned());
        Pager::new(move |page_token| {
            let (this, folder) = (this.clone(), folder.clone());
            async move {
                let request = v1::ListSecretsRequest { folder, page_size: PAGE, page_token };
                let answer = this
                    .caller
                    .call(Repeat::Safe, request, |request| {
                        let mut rpc = this.rpc();
                        async move { rpc.list_secrets(request).await }
                    })
                    .await?;
                Ok((answer.entries.into_iter().map(ListEntry::from).collect(), answer.next_page_token))
            }
        })
    }

    /// Shows the versions of a secret without their values.
    pub async fn history(&self, path: &str) -> Result<History, Error> {
        let request = v1::GetSecretHistoryRequest { path: path.to_owned() };
        let answer = self
            .caller
            .call(Repeat::Safe, request, |request| {
                let mut rpc = self.rpc();
                async move { rpc.get_secret_history(request).await }
            })
            .await?;
        Ok(History { versions: versions(answer.versions), current_version: answer.current_version })
    }

    /// Hides versions; without any, the latest one that is active.
    pub async fn delete(&self, path: &str, which: &[u64]) -> Result<Vec<SecretVersion>, Error> {
        let request = v1::DeleteSecretVersionsRequest { path: path.to_owned(), versions: which.to_vec() };
        let answer = self
            .caller
            .call(Repeat::Never, request, |request| {
                let mut rpc = self.rpc();
                async move { rpc.delete_secret_versions(request).await }
            })
            .await?;
        Ok(versions(answer.versions))
    }

    /// Brings deleted versions back.
    pub async fn undelete(&self, path: &str, which: &[u64]) -> Result<Vec<SecretVersion>, Error> {
        let request = v1::UndeleteSecretVersionsRequest { path: path.to_owned(), versions: which.to_vec() };
        let answer = self
            .caller
            .call(Repeat::Never, request, |request| {
                let mut rpc = self.rpc();
                async move { rpc.undelete_secret_versions(request).await }
            })
            .await?;
        Ok(versions(answer.versions))
    }

    /// Removes the keys of versions for good.
    pub async fn destroy(&self, path: &str, which: &[u64]) -> Result<DestroyedVersions, Error> {
        let request = v1::DestroySecretVersionsRequest { path: path.to_owned(), versions: which.to_vec() };
        let answer = self
            .caller
            .call(Repeat::Never, request, |request| {
                let mut rpc = self.rpc();
                async move { rpc.destroy_secret_versions(request).await }
            })
            .await?;
        Ok(DestroyedVersions {
            versions: versions(answer.versions),
            unrecoverable_after: answer.unrecoverable_after,
            unrecoverable: answer.unrecoverable,
        })
    }
}

fn opened(answer: v1::GetSecretResponse) -> Result<Secret, Error> {
    let version = answer.version.ok_or(Error::MalformedAnswer { what: "a secret without its version" })?;
    let value = answer
        .value
        .and_then(SecretValue::from_wire)
        .ok_or(Error::MalformedAnswer { what: "a secret without its value" })?;
    Ok(Secret { version: version.into(), value })
}

fn versions(versions: Vec<v1::SecretVersion>) -> Vec<SecretVersion> {
    versions.into_iter().map(SecretVersion::from).collect()
}

impl From<v1::SecretVersion> for SecretVersion {
    fn from(version: v1::SecretVersion) -> Self {
        let time =
            |time: Option<prost_types::Timestamp>| time.and_then(|time| SystemTime::try_from(time).ok());
        Self {
            state: match version.state() {
                v1::SecretVersionState::Active => VersionState::Active,
                v1::SecretVersionState::Deleted => VersionState::Deleted,
                v1::SecretVersionState::Destroyed => VersionState::Destroyed,
                v1::SecretVersionState::Unspecified => VersionState::Unknown,
            },
            version: version.version,
            created: time(version.create_time),
            created_by: version.created_by,
            deleted: time(version.delete_time),
            destroyed: time(version.destroy_time),
            size_bytes: version.size_bytes,
        }
    }
}

impl From<v1::SecretListEntry> for ListEntry {
    fn from(entry: v1::SecretListEntry) -> Self {
        Self { name: entry.name, is_secret: entry.is_secret, is_folder: entry.is_folder }
    }
}
