//! `KeysService`: ways, master keys, system keys and their rotation.

use std::time::Duration;

use keystead_core::keys::{MAX_WRAPS_A_VERSION, MasterKey};
use keystead_core::operation;
use keystead_core::rotation::{
    GetRotation, KeyReport, ListKeys, Progress, RetireWay, RotateMasterKey, SystemKeyReport, WayReport,
};
use keystead_domain::time::UnixMillis;
use keystead_proto::v1;
use keystead_proto::v1::keys_service_server::KeysService;
use tonic::{Request, Response, Status};

use super::status::refuse;
use super::{Api, convert};

/// A way's name: a serial of 64 bytes at most, or shorter.
const MAX_WAY: usize = 64;

fn way(way: WayReport) -> v1::KeyWay {
    let link = way.link.as_ref();
    let reason = link.and_then(|link| link.reason.clone());
    let reason = match (&way.recipient, link) {
        (None, None) => "no token of the configuration goes this way".to_owned(),
        _ => reason.unwrap_or_default(),
    };
    v1::KeyWay {
        ready: link.is_some_and(|link| link.ready),
        name: way.name,
        recipient: way.recipient.unwrap_or_default(),
        reason,
        oldest_master_version: way.oldest_master,
        master_version: way.master,
    }
}

fn master_key(key: MasterKey, max_age: Duration) -> v1::MasterKey {
    let state = match (key.superseded, key.destroyed) {
        (_, Some(_)) => v1::MasterKeyState::Destroyed,
        (Some(_), None) => v1::MasterKeyState::Superseded,
        (None, None) => v1::MasterKeyState::Current,
    };
    let counts = key.version > 0;
    let max_age = u64::try_from(max_age.as_millis()).unwrap_or(u64::MAX);
    let overdue = UnixMillis(key.since.0.saturating_add(max_age));
    v1::MasterKey {
        way: key.way,
        version: key.version,
        state: state.into(),
        since: Some(convert::timestamp(key.since)),
        superseded_time: key.superseded.map(convert::timestamp),
        destroy_time: key.destroyed.map(convert::timestamp),
        wraps: key.reserved,
        max_wraps: if counts { MAX_WRAPS_A_VERSION } else { 0 },
        overdue_time: (counts && key.superseded.is_none()).then(|| convert::timestamp(overdue)),
    }
}

fn system_key(key: SystemKeyReport) -> v1::SystemKey {
    v1::SystemKey {
        id: key.id,
        current: key.current,
        since: Some(convert::timestamp(key.since)),
        records: key.records,
    }
}

#[tonic::async_trait]
impl KeysService for Api {
    async fn list_keys(
        &self,
        request: Request<v1::ListKeysRequest>,
    ) -> Result<Response<v1::ListKeysResponse>, Status> {
        let (context, _) = self.open(request)?;
        let vault = self.unsealed().await?;
        let KeyReport { ways, masters, systems, q_version, alarms, max_age } =
            operation::run(&vault, context, ListKeys).await.map_err(refuse)?;
        Ok(Response::new(v1::ListKeysResponse {
            ways: ways.into_iter().map(way).collect(),
            master_keys: masters.into_iter().map(|key| master_key(key, max_age)).collect(),
            system_keys: systems.into_iter().map(system_key).collect(),
            q_version,
            alarms: alarms.iter().map(|alarm| alarm.text()).collect(),
        }))
    }

    async fn rotate_master_key(
        &self,
        request: Request<v1::RotateMasterKeyRequest>,
    ) -> Result<Response<v1::RotateMasterKeyResponse>, Status> {
        let (context, _) = self.open(request)?;
        let vault = self.unsealed().await?;
        let made = operation::run(&vault, context, RotateMasterKey).await.map_err(refuse)?;
        let current = |(way, version)| v1::MasterKey {
            way,
            version,
            state: v1::MasterKeyState::Current.into(),
            max_wraps: MAX_WRAPS_A_VERSION,
            ..v1::MasterKey::default()
        };
        let master_keys = made.into_iter().map(current).collect();
        Ok(Response::new(v1::RotateMasterKeyResponse { master_keys }))
    }

    async fn get_rotation(
        &self,
        request: Request<v1::GetRotationRequest>,
    ) -> Result<Response<v1::GetRotationResponse>, Status> {
        let (context, _) = self.open(request)?;
        let vault = self.unsealed().await?;
        let progress: Progress = operation::run(&vault, context, GetRotation).await.map_err(refuse)?;
        Ok(Response::new(v1::GetRotationResponse {
            running: progress.running,
            start_time: progress.started.map(convert::timestamp),
            end_time: progress.finished.map(convert::timestamp),
            looked_at: progress.looked,
            rewrapped: progress.rewrapped,
            estimated_total: progress.estimated_total,
            estimated_remaining: progress.estimated_total.saturating_sub(progress.looked),
            rate_per_second: progress.rate,
            lacking: progress.lacking,
            malformed: progress.malformed,
            last_error: progress.last_error.unwrap_or_default(),
            complete: progress.complete,
        }))
    }

    async fn retire_way(
        &self,
        request: Request<v1::RetireWayRequest>,
    ) -> Result<Response<v1::RetireWayResponse>, Status> {
        let (context, message) = self.open(request)?;
        if message.way.is_empty() || message.way.len() > MAX_WAY {
            return Err(refuse(convert::invalid("way", format!("1 to {MAX_WAY} bytes"))));
        }
        let vault = self.unsealed().await?;
        let op = RetireWay { way: message.way };
        operation::run(&vault, context, op).await.map_err(refuse)?;
        Ok(Response::new(v1::RetireWayResponse {}))
    }
}
