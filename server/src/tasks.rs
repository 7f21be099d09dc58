//! What runs beside requests: upkeep of the open vault, telling health checks and metrics of each change, and ending
//! connections at a sealing. Ends with the server; an open vault's own work ends when it seals.

use std::sync::Arc;
use std::time::Duration;

use keystead_audit::State;
use keystead_core::error::VaultError;
use keystead_core::leases::ClockState;
use keystead_core::rotation::Alarm;
use keystead_core::vault::Vault;
use keystead_domain::time::UnixMillis;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::listener::{Ends, LAST_ANSWERS};
use crate::telemetry::{LeaseJob, ServerMetrics};

const UPKEEP_EVERY: Duration = Duration::from_secs(5);
const UNSEAL_AGAIN_AFTER: Duration = Duration::from_secs(1);
const UNSEAL_AGAIN_AT_MOST: Duration = Duration::from_secs(60);
const LEASES_EVERY: Duration = Duration::from_secs(1);
const TARGETS_EVERY: Duration = Duration::from_secs(1);
const RECONCILE_EVERY: Duration = Duration::from_secs(600);
const ROTATE_EVERY: Duration = Duration::from_secs(1);
const ROTATE_AGAIN_AT_MOST: Duration = Duration::from_secs(60);

/// Services that need an open vault.
const NEED_OPEN: [&str; 8] = [
    "keystead.v1.SecretsService",
    "keystead.v1.AuthService",
    "keystead.v1.PoliciesService",
    "keystead.v1.AuditService",
    "keystead.v1.KeysService",
    "keystead.v1.CredentialsService",
    "keystead.v1.StaticRolesService",
    "keystead.v1.LeasesService",
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
                if let Some(entries) = vault.unanchored() {
                    metrics.unanchored(entries);
                }
                keep_up(&vault).await;
            }
        }
    }
}

/// Ends connections when the vault seals, so that what passed through them is not kept in memory by callers who stay. What
/// runs in the vault has `patience` to end. Runs until `stop`.
pub(crate) async fn end_connections(
    vault: Arc<Vault>,
    ends: Arc<Ends>,
    patience: Duration,
    beside: TaskTracker,
    stop: CancellationToken,
) {
    let mut state = vault.state_changes();
    let mut open = *state.borrow_and_update();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            changed = state.changed() => if changed.is_err() {
                return;
            },
        }
        let was_open = std::mem::replace(&mut open, *state.borrow_and_update());
        // Only what was sealed can open: one that was open before was sealed in between.
        if open && !was_open {
            continue;
        }
        let cut = ends.end();
        let (vault, stop) = (Arc::clone(&vault), stop.clone());
        beside.spawn(async move {
            let answered = async {
                // Sealing waits for what runs in the vault, and its own caller for the end of it; no caller waits longer.
                drop(tokio::time::timeout(patience, vault.closed()).await);
                tokio::time::sleep(LAST_ANSWERS).await;
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = answered => cut.cancel(),
            }
        });
    }
}

/// Opens a vault that opens by itself, once: whoever seals it later means it.
pub(crate) async fn unseal_by_itself(vault: Arc<Vault>, stop: CancellationToken) {
    let mut pause = UNSEAL_AGAIN_AFTER;
    let mut state = vault.state_changes();
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
            // Somebody opened it with shares, and may have sealed it since.
            _ = state.wait_for(|open| *open) => return,
            () = tokio::time::sleep(pause) => pause = pause.saturating_mul(2).min(UNSEAL_AGAIN_AT_MOST),
        }
    }
}

/// Wraps data keys anew, ends rotations, replaces system keys, and tells of keys that a person should look after. Runs
/// until `stop`.
pub(crate) async fn rotate(vault: Arc<Vault>, metrics: Arc<ServerMetrics>, stop: CancellationToken) {
    let mut told: Vec<Alarm> = Vec::new();
    // Each try is recorded: what keeps failing is tried less and less often.
    let mut pause = ROTATE_EVERY;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        let Ok(open) = vault.unsealed() else { continue };
        match open.look_after_keys(&open).await {
            Ok(()) => pause = ROTATE_EVERY,
            Err(error) => {
                pause = pause.saturating_mul(2).min(ROTATE_AGAIN_AT_MOST);
                let again_in_s = pause.as_secs();
                tracing::warn!(%error, again_in_s, "keys could not be looked after; it is tried again");
            }
        }
        let Ok(alarms) = open.look_for_key_alarms().await else { continue };
        for alarm in alarms.iter().filter(|alarm| !told.contains(alarm)) {
            tracing::warn!("{}", alarm.text());
        }
        metrics.key_alarms.set(f64::from(u32::try_from(alarms.len()).unwrap_or(u32::MAX)));
        let progress = open.rotation_progress();
        metrics.data_keys_lacking.set(f64::from(u32::try_from(progress.lacking).unwrap_or(u32::MAX)));
        told = alarms;
    }
}

/// Takes away logins whose leases are over. Runs until `stop`.
pub(crate) async fn look_after_leases(
    vault: Arc<Vault>,
    metrics: Arc<ServerMetrics>,
    stop: CancellationToken,
) {
    let mut told = ClockState::Agreed;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LEASES_EVERY) => {}
            () = vault.leases_wanted() => {}
        }
        let Ok(open) = vault.unsealed() else { continue };
        let done = open.look_after_leases().await;
        note(&metrics, LeaseJob::Revoke, vault.clock().now(), &done);
        match done {
            Ok(round) => metrics.leases(round.waiting, round.broken),
            Err(error) => tracing::warn!(%error, "leases could not be looked after; it is tried again"),
        }
        let clock = open.lease_clock();
        if std::mem::discriminant(&clock) != std::mem::discriminant(&told) {
            told = clock;
            match clock {
                ClockState::Agreed => tracing::info!("the server's clock agrees with the time of leases"),
                ClockState::Doubted { ahead } => tracing::warn!(
                    ahead_s = ahead / 1000,
                    "the server's clock is far ahead of when the vault was last open: leases stand still until a target's clock agrees, or an operator says `keystead lease accept-clock`"
                ),
                ClockState::Stepped { by } => tracing::warn!(
                    by_s = by / 1000,
                    "the server's clock was stepped: leases go by the time that passed, and none ends early or late"
                ),
            }
        }
    }
}

/// When a job last came to its end is what tells that it does not any more.
fn note<T>(metrics: &ServerMetrics, job: LeaseJob, now: UnixMillis, done: &Result<T, VaultError>) {
    if done.is_ok() {
        metrics.lease_job_done(job, now);
    }
}

/// Compares targets and the index with leases, and ends rotations of their admin logins that were cut off. Apart from revocations, which
/// wait for no target that does not answer. Runs until `stop`.
pub(crate) async fn look_after_targets(
    vault: Arc<Vault>,
    metrics: Arc<ServerMetrics>,
    stop: CancellationToken,
) {
    let mut reconciled: Option<tokio::time::Instant> = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(TARGETS_EVERY) => {}
        }
        let Ok(open) = vault.unsealed() else {
            // Whatever happened while it was shut is found when it opens.
            reconciled = None;
            continue;
        };
        if let Err(error) = open.settle_target_logins().await {
            tracing::warn!(%error, "rotations of admin logins could not be settled; it is tried again");
        }
        let done = open.scrub_leases().await;
        note(&metrics, LeaseJob::Scrub, vault.clock().now(), &done);
        match done {
            Ok(scrubbed) => {
                metrics.lease_index_mended.increment(u64::try_from(scrubbed.mended).unwrap_or(u64::MAX))
            }
            Err(error) => {
                tracing::warn!(%error, "leases could not be compared with their index; they are again")
            }
        }
        // Asked in any case, since that takes the wish back.
        let wanted = open.comparison_wanted();
        if wanted || reconciled.is_none_or(|at| at.elapsed() >= RECONCILE_EVERY) {
            let done = open.reconcile_leases().await;
            note(&metrics, LeaseJob::Compare, vault.clock().now(), &done);
            match done {
                Ok(found) => metrics.reconciled(found.orphans, found.vanished),
                Err(error) => {
                    tracing::warn!(%error, "targets could not be compared with leases; they are again")
                }
            }
            reconciled = Some(tokio::time::Instant::now());
        }
    }
}

/// Changes passwords of static roles that are due: apart from all that waits for no target. Runs until `stop`.
pub(crate) async fn look_after_static_roles(vault: Arc<Vault>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(TARGETS_EVERY) => {}
        }
        let Ok(open) = vault.unsealed() else { continue };
        if let Err(error) = open.look_after_static_roles().await {
            tracing::warn!(%error, "static roles could not be looked after; it is tried again");
        }
    }
}

/// Keeps the head of the audit log in the token: every so often if the log grew, and whenever the vault asks. Apart from
/// the other upkeep, which does not wait for a slow token here.
pub(crate) async fn keep_anchored(
    vault: Arc<Vault>,
    metrics: Arc<ServerMetrics>,
    every: Duration,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(every) => {}
            () = vault.anchor_wanted() => {}
        }
        let anchored = tokio::select! {
            // Sealing anchors once more.
            () = stop.cancelled() => return,
            anchored = vault.anchor() => anchored,
        };
        match anchored {
            Ok(Some(head)) => {
                tracing::debug!(size = head.size, "the head of the audit log was anchored");
                metrics.anchors.increment(1);
            }
            // Nothing new, or sealed meanwhile.
            Ok(None) => {}
            Err(_) if !vault.is_unsealed() => {}
            Err(error) => {
                metrics.anchors_failed.increment(1);
                tracing::warn!(%error, "the head of the audit log could not be anchored in the token; it is tried again");
            }
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
    if let Err(error) = vault.upkeep().await {
        tracing::warn!(%error, "upkeep failed; it is tried again");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_stalls_shows() {
        let metrics = ServerMetrics::new([]).unwrap();
        let shown = |job: &str| {
            let name = format!("keystead_lease_job_last_success_timestamp_seconds{{job=\"{job}\"}} ");
            let text = metrics.render();
            text.lines().find_map(|line| line.strip_prefix(&name)?.parse::<f64>().ok()).unwrap()
        };
        let failed = || Err::<(), _>(VaultError::Unauthenticated);
        for job in [LeaseJob::Revoke, LeaseJob::Compare, LeaseJob::Scrub] {
            note(&metrics, job, UnixMillis(1_700_000_000_000), &Ok(()));
        }
        note(&metrics, LeaseJob::Revoke, UnixMillis(1_700_000_060_000), &failed());
        note(&metrics, LeaseJob::Compare, UnixMillis(1_700_000_060_000), &Ok(()));
        note(&metrics, LeaseJob::Scrub, UnixMillis(1_700_000_060_000), &failed());
        let all = ["revoke", "compare", "scrub"].map(shown);
        assert_eq!(all, [1_700_000_000.0, 1_700_000_060.0, 1_700_000_000.0]);
    }
}
