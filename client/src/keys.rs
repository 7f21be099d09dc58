//! The keys behind every secret, and their rotation.

use keystead_proto::v1;
use keystead_proto::v1::keys_service_client::KeysServiceClient;
use tonic::transport::Channel;

use crate::call::{Caller, MAX_ANSWER_BYTES};
use crate::error::Error;
use crate::retry::Repeat;

/// The keys behind every secret.
#[derive(Clone, Debug)]
pub struct Keys {
    caller: Caller,
}

impl Keys {
    pub(crate) fn new(caller: Caller) -> Self {
        Self { caller }
    }

    fn rpc(&self) -> KeysServiceClient<Channel> {
        KeysServiceClient::new(self.caller.channel()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Ways, master keys, system keys, and what should be mended.
    pub async fn list(&self) -> Result<v1::ListKeysResponse, Error> {
        self.caller
            .call(Repeat::Safe, v1::ListKeysRequest {}, |request| {
                let mut rpc = self.rpc();
                async move { rpc.list_keys(request).await }
            })
            .await
    }

    /// Makes a new master key on every token; data keys are wrapped anew in the background.
    pub async fn rotate(&self) -> Result<v1::RotateMasterKeyResponse, Error> {
        self.caller
            .call(Repeat::Never, v1::RotateMasterKeyRequest {}, |request| {
                let mut rpc = self.rpc();
                async move { rpc.rotate_master_key(request).await }
            })
            .await
    }

    /// How far the pass over all data keys is.
    pub async fn rotation(&self) -> Result<v1::GetRotationResponse, Error> {
        self.caller
            .call(Repeat::Safe, v1::GetRotationRequest {}, |request| {
                let mut rpc = self.rpc();
                async move { rpc.get_rotation(request).await }
            })
            .await
    }

    /// Takes a way out: a token, or a recovery recipient.
    pub async fn retire(&self, way: &str) -> Result<(), Error> {
        let request = v1::RetireWayRequest { way: way.to_owned() };
        self.caller
            .call(Repeat::Never, request, |request| {
                let mut rpc = self.rpc();
                async move { rpc.retire_way(request).await }
            })
            .await
            .map(drop)
    }
}
