//! `SystemService`: answers while sealed too.

use std::sync::Arc;

use keystead_core::init::{Init, TokenLoss};
use keystead_core::operation;
use keystead_core::seal::{
    ExportSealRecord, Outcome, Progress, Purpose, Rekey, Status as VaultStatus, Submitted, Wish,
};
use keystead_crypto::envelope::MAX_TOKEN_BYTES;
use keystead_crypto::recovery::RecoveryRecipient;
use keystead_crypto::secret::SecretBytes;
use keystead_crypto::unseal_key::MAX_PIN_BYTES;
use keystead_domain::id::VaultId;
use keystead_domain::seal::Quorum;
use keystead_proto::v1;
use keystead_proto::v1::system_service_server::SystemService;
use tonic::{Request, Response, Status};

use super::status::refuse;
use super::{Api, convert};

/// A statement in the audit log at most.
const MAX_STATEMENT: usize = 1024;

/// Whether a call of this path brings shares or PINs: they lie in the buffers of its connection until that ends.
pub fn brings_shares_or_pins(path: &str) -> bool {
    let method = path.strip_prefix("/keystead.v1.SystemService/");
    matches!(method, Some("Initialize" | "StartCeremony" | "SubmitShare"))
}

fn progress(progress: Progress) -> v1::CeremonyProgress {
    let purpose = match progress.purpose {
        Purpose::Unseal => v1::CeremonyPurpose::Unseal,
        Purpose::Rekey => v1::CeremonyPurpose::Rekey,
        Purpose::ConfirmRekey => v1::CeremonyPurpose::ConfirmRekey,
        Purpose::ChangePin => v1::CeremonyPurpose::ChangePin,
        Purpose::EnableAutoUnseal => v1::CeremonyPurpose::EnableAutoUnseal,
        Purpose::DisableAutoUnseal => v1::CeremonyPurpose::DisableAutoUnseal,
        Purpose::RecoverRoot => v1::CeremonyPurpose::RecoverRoot,
        Purpose::AddToken => v1::CeremonyPurpose::AddToken,
        Purpose::AddRecovery => v1::CeremonyPurpose::AddRecovery,
    };
    let parameter = |(name, value): (&str, String)| v1::CeremonyParameter { name: name.to_owned(), value };
    v1::CeremonyProgress {
        purpose: purpose.into(),
        parameters: progress.parameters.into_iter().map(parameter).collect(),
        ceremony_id: progress.id.to_string(),
        threshold: u32::from(progress.threshold),
        entered: progress.entered.into_iter().map(u32::from).collect(),
        expire_time: Some(convert::timestamp(progress.expires)),
    }
}

fn text(secret: SecretBytes) -> String {
    String::from_utf8(secret.into_exposed()).unwrap_or_default()
}

/// What a ceremony shall be for.
fn wish(message: v1::StartCeremonyRequest) -> Result<Wish, Status> {
    use v1::start_ceremony_request::Purpose;
    match message.purpose {
        None => Err(refuse(convert::invalid("purpose", "is missing"))),
        Some(Purpose::Rekey(rekey)) => {
            let recipients = rekey.recipients.iter().map(|text| recipient("recipients", text));
            Ok(Wish::Rekey(Rekey {
                quorum: quorum(rekey.threshold, rekey.shares)?,
                recipients: recipients.collect::<Result<_, _>>()?,
                new_q: rekey.new_q,
            }))
        }
        Some(Purpose::ChangePin(change)) => Ok(Wish::ChangePin {
            serial: Some(change.serial).filter(|serial| !serial.is_empty()),
            new: pin("new_pin", change.new_pin)?,
        }),
        Some(Purpose::EnableAutoUnseal(_)) => Ok(Wish::EnableAutoUnseal),
        Some(Purpose::DisableAutoUnseal(_)) => Ok(Wish::DisableAutoUnseal),
        Some(Purpose::RecoverRoot(_)) => Ok(Wish::RecoverRoot),
        Some(Purpose::AddToken(add)) => {
            if add.serial.is_empty() || add.serial.len() > MAX_TOKEN_BYTES {
                return Err(refuse(convert::invalid("serial", format!("1 to {MAX_TOKEN_BYTES} bytes"))));
            }
            Ok(Wish::AddToken(add.serial, pin("pin", add.pin)?))
        }
        Some(Purpose::AddRecovery(add)) => Ok(Wish::AddRecovery(recipient("recipient", &add.recipient)?)),
    }
}

fn pin(field: &'static str, bytes: Vec<u8>) -> Result<SecretBytes, Status> {
    let pin = SecretBytes::new(bytes);
    if pin.is_empty() || pin.len() > MAX_PIN_BYTES {
        return Err(refuse(convert::invalid(field, format!("1 to {MAX_PIN_BYTES} bytes"))));
    }
    Ok(pin)
}

fn recipient(field: &'static str, text: &str) -> Result<RecoveryRecipient, Status> {
    RecoveryRecipient::parse(text).map_err(|error| refuse(convert::invalid(field, error)))
}

/// What a share did.
fn answer(submitted: Submitted) -> v1::SubmitShareResponse {
    let mut answer = v1::SubmitShareResponse {
        state: v1::SealState::Unsealed.into(),
        ..v1::SubmitShareResponse::default()
    };
    match submitted {
        Submitted::Unsealed => {}
        Submitted::More(more) => {
            if more.purpose == Purpose::Unseal {
                answer.state = v1::SealState::Sealed.into();
            }
            answer.ceremony = Some(progress(more));
        }
        Submitted::Done(Outcome::Shares { shares, confirm }) => {
            answer.ceremony = confirm.map(progress);
            answer.shares = shares
                .into_iter()
                .map(|share| v1::UnsealShare {
                    number: u32::from(share.number),
                    text: text(share.text),
                    recipient: share.recipient.unwrap_or_default(),
                })
                .collect();
        }
        Submitted::Done(Outcome::Rekeyed { record, remark }) => {
            answer.seal_record = record;
            answer.remark = remark.unwrap_or_default();
        }
        Submitted::Done(Outcome::PinChanged { record } | Outcome::Joined { record }) => {
            answer.seal_record = record;
        }
        Submitted::Done(Outcome::AutoUnseal { .. }) => {}
        Submitted::Done(Outcome::Root(token, expires)) => {
            answer.bootstrap_token = text(token.to_text());
            answer.bootstrap_expire_time = Some(convert::timestamp(expires));
        }
    }
    answer
}

fn quorum(threshold: u32, shares: u32) -> Result<Quorum, Status> {
    let (threshold, shares) = (share_count("threshold", threshold)?, share_count("shares", shares)?);
    Quorum::new(threshold, shares).map_err(|error| refuse(convert::invalid("threshold", error)))
}

fn share_count(field: &'static str, asked: u32) -> Result<u8, Status> {
    u8::try_from(asked).map_err(|_| refuse(convert::invalid(field, format!("2 to 255, {asked} asked"))))
}

fn token_loss(message: &v1::InitializeRequest) -> Result<TokenLoss, Status> {
    let statement = message.token_backup_statement.as_str();
    let rule = |rule: String| refuse(convert::invalid("token_backup_statement", rule));
    match (statement.is_empty(), message.accept_total_loss) {
        (true, false) if !message.recovery_recipients.is_empty() => Ok(TokenLoss::Recoverable),
        (true, true) => Ok(TokenLoss::Accepted),
        (true, false) => Err(rule(
            "losing the token loses every secret: name a recovery recipient, say how it is backed up, or accept total loss".to_owned(),
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
        let VaultStatus { header, unsealed, powers, ceremony, warnings } =
            self.vault().status().await.map_err(refuse)?;
        let state = match (&header, unsealed) {
            (None, _) => v1::SealState::Uninitialized,
            (Some(_), true) => v1::SealState::Unsealed,
            (Some(_), false) => v1::SealState::Sealed,
        };
        let mut answer = v1::GetStatusResponse {
            state: state.into(),
            ceremony: ceremony.map(progress),
            server_version: env!("CARGO_PKG_VERSION").to_owned(),
            memory_locked: self.0.memory_locked,
            warnings: self.warnings().into_iter().chain(warnings).collect(),
            ..v1::GetStatusResponse::default()
        };
        if let Some((header, signed)) = header {
            answer.vault_id = VaultId(header.vault).to_string();
            answer.epoch = header.epoch;
            answer.threshold = u32::from(header.threshold);
            answer.shares = u32::from(header.shares);
            answer.powers = u32::from(powers);
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
        let quorum = quorum(message.threshold, message.shares)?;
        if pin.is_empty() {
            return Err(refuse(convert::invalid("hsm_pin", "is missing")));
        }
        let mut operators = Vec::with_capacity(message.operators.len());
        for operator in &message.operators {
            let name = convert::principal_name(&operator.principal).map_err(refuse)?;
            let matcher = operator.matcher.clone().unwrap_or_default();
            operators.push((name, convert::matcher(&matcher).map_err(refuse)?));
        }
        let recovery = message.recovery_recipients.iter();
        let recovery =
            recovery.map(|text| recipient("recovery_recipients", text)).collect::<Result<_, _>>()?;
        let init = Init { quorum, pin, operators, recovery, loss: token_loss(&message)? };
        let made = self.vault().init(&context, init).await.map_err(refuse)?;
        let shares = made
            .shares
            .iter()
            .map(|share| v1::UnsealShare {
                number: u32::from(share.number()),
                text: text(share.to_text()),
                recipient: String::new(),
            })
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
            seal_record: made.seal_record,
        }))
    }

    async fn start_ceremony(
        &self,
        request: Request<v1::StartCeremonyRequest>,
    ) -> Result<Response<v1::StartCeremonyResponse>, Status> {
        let (context, message) = self.open(request)?;
        let begun = self.vault().start_ceremony(context, wish(message)?).await.map_err(refuse)?;
        Ok(Response::new(v1::StartCeremonyResponse { ceremony: Some(progress(begun)) }))
    }

    async fn submit_share(
        &self,
        request: Request<v1::SubmitShareRequest>,
    ) -> Result<Response<v1::SubmitShareResponse>, Status> {
        let (context, message) = self.open(request)?;
        let share = SecretBytes::new(message.share);
        let ceremony = convert::ceremony_id(&message.ceremony_id).map_err(refuse)?;
        let submitted = self.vault().submit_share(&context, share, ceremony).await.map_err(refuse)?;
        Ok(Response::new(answer(submitted)))
    }

    async fn cancel_ceremony(
        &self,
        request: Request<v1::CancelCeremonyRequest>,
    ) -> Result<Response<v1::CancelCeremonyResponse>, Status> {
        let (context, message) = self.open(request)?;
        let id = convert::ceremony_id(&message.ceremony_id).map_err(refuse)?;
        let id = id.ok_or_else(|| refuse(convert::invalid("ceremony_id", "is missing")))?;
        self.vault().cancel_ceremony(context, id).await.map_err(refuse)?;
        Ok(Response::new(v1::CancelCeremonyResponse {}))
    }

    async fn export_seal_record(
        &self,
        request: Request<v1::ExportSealRecordRequest>,
    ) -> Result<Response<v1::ExportSealRecordResponse>, Status> {
        let (context, _) = self.open(request)?;
        let open = self.unsealed().await?;
        let export = ExportSealRecord { vault: Arc::clone(self.vault()) };
        let exported = operation::run(&open, context, export).await.map_err(refuse)?;
        Ok(Response::new(v1::ExportSealRecordResponse {
            seal_record: exported.record,
            epoch: exported.epoch,
        }))
    }

    async fn seal(&self, request: Request<v1::SealRequest>) -> Result<Response<v1::SealResponse>, Status> {
        let (context, _) = self.open(request)?;
        self.vault().seal(context).await.map_err(refuse)?;
        Ok(Response::new(v1::SealResponse {}))
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;

    #[test]
    fn each_call_brings_shares_or_pins_or_is_known_not_to() {
        const BRING_NONE: [&str; 4] = ["GetStatus", "CancelCeremony", "ExportSealRecord", "Seal"];
        let files = FileDescriptorSet::decode(keystead_proto::FILE_DESCRIPTOR_SET).unwrap().file;
        let services = files.iter().flat_map(|file| &file.service);
        let system = services.filter(|service| service.name() == "SystemService");
        let methods: Vec<&str> =
            system.flat_map(|service| &service.method).map(|method| method.name()).collect();
        assert_eq!(methods.len(), 7);
        for method in methods {
            let brings = brings_shares_or_pins(&format!("/keystead.v1.SystemService/{method}"));
            assert_ne!(brings, BRING_NONE.contains(&method), "{method}");
        }
        assert!(!brings_shares_or_pins("/keystead.v1.SecretsService/SubmitShare"));
    }
}
