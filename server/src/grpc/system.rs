//! `SystemService`: answers while sealed too.

use keystead_core::init::{Init, TokenLoss};
use keystead_core::seal::{Progress, Status as VaultStatus, Submitted};
use keystead_crypto::secret::SecretBytes;
use keystead_domain::id::VaultId;
use keystead_domain::seal::Quorum;
use keystead_proto::v1;
use keystead_proto::v1::system_service_server::SystemService;
use tonic::{Request, Response, Status};

use super::status::refuse;
use super::{Api, convert};

/// A statement in the audit log at most.
const MAX_STATEMENT: usize = 1024;

fn progress(progress: Progress) -> v1::CeremonyProgress {
    v1::CeremonyProgress {
        ceremony_id: progress.id.to_string(),
        threshold: u32::from(progress.threshold),
        entered: progress.entered.into_iter().map(u32::from).collect(),
        expire_time: Some(convert::timestamp(progress.expires)),
    }
}

fn share_count(field: &'static str, asked: u32) -> Result<u8, Status> {
    u8::try_from(asked).map_err(|_| refuse(convert::invalid(field, format!("2 to 255, {asked} asked"))))
}

fn token_loss(message: &v1::InitializeRequest) -> Result<TokenLoss, Status> {
    let statement = message.token_backup_statement.as_str();
    let rule = |rule: String| refuse(convert::invalid("token_backup_statement", rule));
    match (statement.is_empty(), message.accept_total_loss) {
        (true, true) => Ok(TokenLoss::Accepted),
        (true, false) => Err(rule(
            "losing the token loses every secret: say how it is backed up, or accept total loss".to_owned(),
        )),
        (false, true) => Err(rule("is a backup; do not accept total loss as well".to_owned())),
        (false, false) if statement.len() > MAX_STATEMENT => {
            Err(rule(format!("at most {MAX_STATEMENT} bytes")))
        }
        (false, false) => Ok(TokenLoss::BackedUp(statement.to_owned())),
    }
}

#[tonic::async_trait]
impl SystemService for Api {
    async fn get_status(
        &self,
        request: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        drop(request);
        let VaultStatus { header, unsealed, ceremony } = self.vault().status().await.map_err(refuse)?;
        let state = match (&header, unsealed) {
            (None, _) => v1::SealState::Uninitialized,
            (Some(_), true) => v1::SealState::Unsealed,
            (Some(_), false) => v1::SealState::Sealed,
        };
        let mut answer = v1::GetStatusResponse {
            state: state.into(),
            unseal: ceremony.map(progress),
            server_version: env!("CARGO_PKG_VERSION").to_owned(),
            memory_locked: self.0.memory_locked,
            warnings: self.0.warnings.clone(),
            ..v1::GetStatusResponse::default()
        };
        if let Some((header, signed)) = header {
            answer.vault_id = VaultId(header.vault).to_string();
            answer.epoch = header.epoch;
            answer.threshold = u32::from(header.threshold);
            answer.shares = u32::from(header.shares);
            answer.powers = 2;
            answer.seal_header = signed;
        }
        Ok(Response::new(answer))
    }

    async fn initialize(
        &self,
        request: Request<v1::InitializeRequest>,
    ) -> Result<Response<v1::InitializeResponse>, Status> {
        let (context, mut message) = self.open(request)?;
        let pin = SecretBytes::new(std::mem::take(&mut message.hsm_pin));
        let (threshold, shares) =
            (share_count("threshold", message.threshold)?, share_count("shares", message.shares)?);
        let quorum =
            Quorum::new(threshold, shares).map_err(|error| refuse(convert::invalid("threshold", error)))?;
        if pin.is_empty() {
            return Err(refuse(convert::invalid("hsm_pin", "is missing")));
        }
        let mut operators = Vec::with_capacity(message.operators.len());
        for operator in &message.operators {
            let name = convert::principal_name(&operator.principal).map_err(refuse)?;
            let matcher = operator.matcher.clone().unwrap_or_default();
            operators.push((name, convert::matcher(&matcher).map_err(refuse)?));
        }
        let init = Init { quorum, pin, operators, loss: token_loss(&message)? };
        let made = self.vault().init(&context, init).await.map_err(refuse)?;
        let text = |bytes: SecretBytes| String::from_utf8(bytes.into_exposed()).unwrap_or_default();
        let shares = made
            .shares
            .iter()
            .map(|share| v1::UnsealShare { number: u32::from(share.number()), text: text(share.to_text()) })
            .collect();
        let (bootstrap_token, expires) = match made.bootstrap {
            Some((token, expires)) => (text(token.to_text()), Some(convert::timestamp(expires))),
            None => (String::new(), None),
        };
        Ok(Response::new(v1::InitializeResponse {
            vault_id: made.vault.to_string(),
            shares,
            bootstrap_token,
            bootstrap_expire_time: expires,
        }))
    }

    async fn submit_unseal_share(
        &self,
        request: Request<v1::SubmitUnsealShareRequest>,
    ) -> Result<Response<v1::SubmitUnsealShareResponse>, Status> {
        let (context, message) = self.open(request)?;
        let share = SecretBytes::new(message.share);
        let ceremony = convert::ceremony_id(&message.ceremony_id).map_err(refuse)?;
        let submitted = self.vault().submit_share(&context, share, ceremony).await.map_err(refuse)?;
        let (state, unseal) = match submitted {
            Submitted::More(more) => (v1::SealState::Sealed, Some(progress(more))),
            Submitted::Unsealed => (v1::SealState::Unsealed, None),
        };
        Ok(Response::new(v1::SubmitUnsealShareResponse { state: state.into(), unseal }))
    }

    async fn cancel_unseal(
        &self,
        request: Request<v1::CancelUnsealRequest>,
    ) -> Result<Response<v1::CancelUnsealResponse>, Status> {
        let (context, message) = self.open(request)?;
        let id = convert::ceremony_id(&message.ceremony_id).map_err(refuse)?;
        let id = id.ok_or_else(|| refuse(convert::invalid("ceremony_id", "is missing")))?;
        self.vault().cancel_unseal(&context, id).await.map_err(refuse)?;
        Ok(Response::new(v1::CancelUnsealResponse {}))
    }

    async fn seal(&self, request: Request<v1::SealRequest>) -> Result<Response<v1::SealResponse>, Status> {
        let (context, _) = self.open(request)?;
        self.vault().seal(context).await.map_err(refuse)?;
        Ok(Response::new(v1::SealResponse {}))
    }
}
