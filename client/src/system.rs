//! The vault's life: status, init, unseal, seal. Nothing here but the status is ever repeated by itself.

use std::time::Duration;

use keystead_proto::v1;
use keystead_proto::v1::system_service_client::SystemServiceClient;
use tonic::transport::Channel;

use crate::call::Caller;
use crate::error::Error;
use crate::retry::Repeat;
use crate::value::SecretBytes;

/// Making and opening keys inside an HSM takes its time.
const CEREMONY: Duration = Duration::from_secs(60);

/// What a new vault is to be.
#[derive(Clone, Debug)]
pub struct InitRequest {
    /// Shares to make: 2 to 255.
    pub shares: u32,
    /// Shares needed: 2 to `shares`.
    pub threshold: u32,
    /// The PIN of the token.
    pub hsm_pin: SecretBytes,
    /// Operators with full rights; without any, a bootstrap token is made.
    pub operators: Vec<v1::InitialOperator>,
    /// It is understood that losing the token loses every secret.
    pub accept_total_loss: bool,
    /// How the token is backed up; empty if it is not.
    pub token_backup_statement: String,
    /// age recipients whose private halves are kept offline, for when the token is lost.
    pub recovery_recipients: Vec<String>,
}

/// A vault that was just made. It is the only copy of what it holds.
#[derive(Clone, Debug)]
pub struct Initialized {
    /// The vault's id.
    pub vault_id: String,
    /// One share a holder.
    pub shares: Vec<InitialShare>,
    /// The bootstrap admin's token, if no operator was named.
    pub bootstrap_token: Option<SecretBytes>,
    /// When that token dies.
    pub bootstrap_expires: Option<prost_types::Timestamp>,
    /// The seal record: a backup of the store opens only with it.
    pub seal_record: Vec<u8>,
}

/// One holder's share.
#[derive(Clone, Debug)]
pub struct InitialShare {
    /// Its number, from 1.
    pub number: u32,
    /// Its text, or that sealed for the recipient and armored.
    pub text: SecretBytes,
    /// The age recipient that it is sealed for.
    pub recipient: Option<String>,
}

impl From<v1::UnsealShare> for InitialShare {
    fn from(share: v1::UnsealShare) -> Self {
        let recipient = Some(share.recipient).filter(|recipient| !recipient.is_empty());
        Self { number: share.number, text: share.text.into(), recipient }
    }
}

/// What one share did.
#[derive(Clone, Debug)]
pub struct Submitted {
    /// The state after it.
    pub state: v1::SealState,
    /// The ceremony, while more shares are needed.
    pub ceremony: Option<v1::CeremonyProgress>,
    /// New shares of a rekey. It is the only copy; they are good once the ceremony that comes along is over.
    pub shares: Vec<InitialShare>,
    /// A new seal record, to be kept beside backups.
    pub seal_record: Option<Vec<u8>>,
    /// A new administrator's token.
    pub bootstrap_token: Option<SecretBytes>,
    /// When that token dies.
    pub bootstrap_expires: Option<prost_types::Timestamp>,
    /// What could not be done, although the rest was.
    pub remark: Option<String>,
}

/// The vault's life.
#[derive(Clone, Debug)]
pub struct System {
    caller: Caller,
}

impl System {
    pub(crate) fn new(caller: Caller) -> Self {
        Self { caller }
    }

    fn rpc(&self) -> SystemServiceClient<Channel> {
        SystemServiceClient::new(self.caller.channel())
    }

    /// Whether the vault is initialized and sealed. Answers while sealed too.
    pub async fn status(&self) -> Result<v1::GetStatusResponse, Error> {
        self.caller
            .call(Repeat::Safe, v1::GetStatusRequest {}, |request| {
                let mut rpc = self.rpc();
                async move { rpc.get_status(request).await }
            })
            .await
    }

    /// Makes a new vault.
    pub async fn initialize(&self, init: InitRequest) -> Result<Initialized, Error> {
        let request = v1::InitializeRequest {
            shares: init.shares,
            threshold: init.threshold,
            hsm_pin: init.hsm_pin.expose().to_vec(),
            operators: init.operators,
            accept_total_loss: init.accept_total_loss,
            token_backup_statement: init.token_backup_statement,
            recovery_recipients: init.recovery_recipients,
        };
        let answer = self
            .caller
            .patient(CEREMONY)
            .call(Repeat::Never, request, |request| {
                let mut rpc = self.rpc();
                async move { rpc.initialize(request).await }
            })
            .await?;
        let token = SecretBytes::from(answer.bootstrap_token);
        Ok(Initialized {
            vault_id: answer.vault_id,
            shares: answer.shares.into_iter().map(InitialShare::from).collect(),
            bootstrap_token: Some(token).filter(|token| !token.is_empty()),
            bootstrap_expires: answer.bootstrap_expire_time,
            seal_record: answer.seal_record,
        })
    }

    /// Begins a ceremony of an open vault.
    pub async fn start_ceremony(
        &self,
        purpose: v1::start_ceremony_request::Purpose,
    ) -> Result<v1::CeremonyProgress, Error> {
        let request = v1::StartCeremonyRequest { purpose: Some(purpose) };
        let answer = self
            .caller
            .call(Repeat::Never, request, |request| {
                let mut rpc = self.rpc();
                async move { rpc.start_ceremony(request).await }
            })
            .await?;
        Ok(answer.ceremony.unwrap_or_default())
    }

    /// Enters one share; `ceremony_id` is what the holder saw in the status. It may be empty for unsealing.
    pub async fn submit_share(&self, share: &SecretBytes, ceremony_id: &str) -> Result<Submitted, Error> {
        let request =
            v1::SubmitShareRequest { share: share.expose().to_vec(), ceremony_id: ceremony_id.to_owned() };
        let answer = self
            .caller
            .patient(CEREMONY)
            .call(Repeat::Never, request, |request| {
                let mut rpc = self.rpc();
                async move { rpc.submit_share(request).await }
            })
            .await?;
        let token = SecretBytes::from(answer.bootstrap_token);
        Ok(Submitted {
            state: v1::SealState::try_from(answer.state).unwrap_or(v1::SealState::Unspecified),
            ceremony: answer.ceremony,
            shares: answer.shares.into_iter().map(InitialShare::from).collect(),
            seal_record: Some(answer.seal_record).filter(|record| !record.is_empty()),
            bootstrap_token: Some(token).filter(|token| !token.is_empty()),
            bootstrap_expires: answer.bootstrap_expire_time,
            remark: Some(answer.remark).filter(|remark| !remark.is_empty()),
        })
    }

    /// Ends a half-done ceremony.
    pub async fn cancel_ceremony(&self, ceremony_id: &str) -> Result<(), Error> {
        let request = v1::CancelCeremonyRequest { ceremony_id: ceremony_id.to_owned() };
        self.caller
            .call(Repeat::Never, request, |request| {
                let mut rpc = self.rpc();
                async move { rpc.cancel_ceremony(request).await }
            })
            .await
            .map(|_| ())
    }

    /// The seal record, to be kept beside backups.
    pub async fn export_seal_record(&self) -> Result<v1::ExportSealRecordResponse, Error> {
        self.caller
            .call(Repeat::Safe, v1::ExportSealRecordRequest {}, |request| {
                let mut rpc = self.rpc();
                async move { rpc.export_seal_record(request).await }
            })
            .await
    }

    /// Seals the vault.
    pub async fn seal(&self) -> Result<(), Error> {
        self.caller
            .patient(CEREMONY)
            .call(Repeat::Never, v1::SealRequest {}, |request| {
                let mut rpc = self.rpc();
                async move { rpc.seal(request).await }
            })
            .await
            .map(|_| ())
    }
}
