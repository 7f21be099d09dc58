//! What runs beside requests: upkeep of the open vault, and telling health checks and metrics of each change. Ends with
//! the server; an open vault's own work ends when it seals.

use std::sync::Arc;
use std::time::Duration;

use keystead_audit::State;
use keystead_core::vault::Vault;
use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::telemetry::ServerMetrics;

const UPKEEP_EVERY: Duration = Duration::from_secs(5);
const UNSEAL_AGAIN_AFTER: Duration = Duration::from_secs(1);
const UNSEAL_AGAIN_AT_MOST: Duration = Duration::from_secs(60);

/// Services that need an open vault.
const NEED_OPEN: [&str; 4] = [
    "keystead.v1.SecretsService",
    "keystead.v1.AuthService",
    "keystead.v1.PoliciesService",
    "keystead.v1.AuditService",
];

/// Runs until `stop`.
pub(crate) async fn run(
    vault: Arc<Vault>,
    health: HealthReporter,
    metrics: Arc<ServerMetrics>,
    draining: CancellationToken,
    stop: CancellationToken,
) {
    let mut told = false;
    let mut state = vault.state_changes();
    let mut upkeep = tokio::time::interval(UPKEEP_EVERY);
    upkeep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    health.set_service_status("keystead.v1.SystemService", ServingStatus::Serving).await;
    health.set_service_status("", ServingStatus::Serving).await;
    tell(&health, &metrics, false).await;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            // Whoever balances load looks elsewhere before connections are turned away.
            () = draining.cancelled(), if !told => {
                told = true;
                vault.end_streams();
                tell(&health, &metrics, false).await;
                health.set_service_status("", ServingStatus::NotServing).await;
            }
            changed = state.changed() => {
                if changed.is_err() {
                    return;
                }
                let open = *state.borrow_and_update();
                tell(&health, &metrics, open).await;
                keep_up(&vault).await;
            }
            _ = upkeep.tick() => {
                let failing = vault.audit().status().state != State::Ready;
                metrics.audit_failing.set(if failing { 1.0 } else { 0.0 });
                keep_up(&vault).await;
            }
        }
    }
}

/// Opens a vault that opens by itself, once: whoever seals it later means it.
pub(crate) async fn unseal_by_itself(vault: Arc<Vault>, stop: CancellationToken) {
    let mut pause = UNSEAL_AGAIN_AFTER;
    loop {
        match vault.unseal_by_itself().await {
            Ok(opened) => {
                if !opened {
                    tracing::info!("a PIN is configured, but the vault opens with shares only");
                }
                return;
            }
            Err(error) if error.may_pass() => {
                tracing::warn!(%error, again_in_s = pause.as_secs(), "the vault could not open by itself; it is tried again");
            }
            Err(error) => {
                tracing::error!(%error, "the vault does not open by itself; unseal it with shares");
                return;
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => pause = pause.saturating_mul(2).min(UNSEAL_AGAIN_AT_MOST),
        }
    }
}

async fn tell(health: &HealthReporter, metrics: &ServerMetrics, open: bool) {
    metrics.sealed.set(if open { 0.0 } else { 1.0 });
    let status = if open { ServingStatus::Serving } else { ServingStatus::NotServing };
    for service in NEED_OPEN {
        health.set_service_status(service, status).await;
    }
}

async fn keep_up(vault: &Vault) {
    vault.tidy();
    let Ok(open) = vault.unsealed() else { return };
    if let Err(error) = open.upkeep().await {
        tracing::warn!(%error, "upkeep failed; it is tried again");
    }
}
