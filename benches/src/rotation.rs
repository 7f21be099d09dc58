//! `keystead-benches rotation`: what the token can wrap alone, how fast a rotation of the master key wraps every data key
//! anew, and what reads cost meanwhile.
//!
//! Invariant: reads are measured by the same load before and during the pass. Absent: any verdict.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::stream::{self, StreamExt};
use hdrhistogram::Histogram;
use keystead_client::SecretValue;
use keystead_crypto::ports::{HsmKey, HsmKeyPurpose, HsmLogin, KeyWrapper};
use keystead_crypto::secret::SecretBytes;
use tokio::time::Instant;

use crate::load::{self, Load, Request};
use crate::vault::Vault;

/// As many as the pass has under way.
const PASS_IN_FLIGHT: usize = 4;
/// Writers that fill the vault.
const WRITERS: usize = 64;
/// The bytes that a wrap holds.
const INNER_BLOB: [u8; 48] = [7; 48];
const SLICE: Duration = Duration::from_secs(1);

/// What a run shall be.
pub(crate) struct Plan {
    pub(crate) keys: usize,
    pub(crate) seconds: u32,
    pub(crate) in_flight: usize,
    pub(crate) max_rewraps_per_second: u32,
}

/// Measures, and says what came of it.
pub(crate) async fn run(plan: &Plan, progress: impl Fn(&str)) -> Result<String> {
    let most = plan.max_rewraps_per_second.to_string();
    progress("starting a vault");
    let vault = Vault::start_with("os", &[("rotation.max_rewraps_per_second", &most)]).await?;
    let time = Duration::from_secs(plan.seconds.into());
    progress("the token alone");
    let token = token_alone(&vault, time).await?;
    fill(&vault, plan.keys, &progress).await?;
    let load = Load::new(vault.clients(vault.address(), plan.in_flight).await?);
    load.run(Request::Read, plan.in_flight, SLICE).await?;
    progress("reads, nothing else");
    let before = load.run(Request::Read, plan.in_flight, time).await?;
    let keys = vault.operator().keys();
    keys.rotate().await?;
    let began = Instant::now();
    let mut during = load::histogram()?;
    let pass = loop {
        during.add(&load.run(Request::Read, plan.in_flight, SLICE).await?.latencies)?;
        let pass = keys.rotation().await?;
        progress(&format!("wrapped anew: {} of about {}", pass.rewrapped, pass.estimated_total));
        let over = keys.list().await?.ways.iter().all(|way| way.oldest_master_version == way.master_version);
        if over {
            break pass;
        }
        if !pass.last_error.is_empty() {
            bail!("the pass failed: {}", pass.last_error);
        }
    };
    let took = began.elapsed();
    progress("done\n");
    let mut out = String::new();
    let rate = f64::from(u32::try_from(pass.rewrapped)?) / took.as_secs_f64();
    writeln!(out, "token alone, wrap and open:   {token:>9.0} a second")?;
    writeln!(
        out,
        "data keys wrapped anew:       {:>9} in {:.1} s, {rate:.0} a second",
        pass.rewrapped,
        took.as_secs_f64()
    )?;
    writeln!(out, "reads, {} in flight:", plan.in_flight)?;
    writeln!(out, "  without rotation            {}", quantiles(&before.latencies))?;
    writeln!(out, "  during rotation             {}", quantiles(&during))?;
    Ok(out)
}

fn quantiles(latencies: &Histogram<u64>) -> String {
    let at = |quantile| Duration::from_micros(latencies.value_at_quantile(quantile)).as_secs_f64() * 1e3;
    format!("p50 {:.2} ms, p99 {:.2} ms, {} reads", at(0.5), at(0.99), latencies.len())
}

/// Wraps, each opened again as the vault does, that the token makes in a second.
async fn token_alone(vault: &Vault, time: Duration) -> Result<f64> {
    let hsm = vault.hsm_handle();
    hsm.login(SecretBytes::copy_from(vault.pin().as_bytes())).await?;
    let (tag, key) = (*b"bench---", HsmKey { purpose: HsmKeyPurpose::Master, version: 1 });
    hsm.create_key(tag, key).await?;
    hsm.bind(tag, &[key]).await?;
    let made = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let one = |_| {
        let (hsm, made) = (hsm.clone(), Arc::clone(&made));
        async move {
            while began.elapsed() < time {
                let sealed = hsm.wrap(key, b"bench", &INNER_BLOB).await?;
                if hsm.unwrap(key, b"bench", &sealed).await? != INNER_BLOB {
                    bail!("the token opened a wrap to other bytes");
                }
                made.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        }
    };
    let all: Vec<Result<()>> =
        stream::iter(0..PASS_IN_FLIGHT).map(one).buffer_unordered(PASS_IN_FLIGHT).collect().await;
    all.into_iter().collect::<Result<()>>()?;
    let rate = f64::from(u32::try_from(made.load(Ordering::Relaxed))?) / began.elapsed().as_secs_f64();
    hsm.destroy_key(tag, key).await?;
    hsm.logout().await;
    Ok(rate)
}

async fn fill(vault: &Vault, keys: usize, progress: impl Fn(&str)) -> Result<()> {
    let operator = vault.operator();
    let mut stored = stream::iter(0..keys)
        .map(|number| {
            let secrets = operator.secrets();
            async move { secrets.put(&format!("many/{number}"), SecretValue::data(vec![b'x'; 32])).await }
        })
        .buffer_unordered(WRITERS);
    let mut count = 0_usize;
    while let Some(answer) = stored.next().await {
        answer.context("a secret could not be stored")?;
        count = count.saturating_add(1);
        if count.is_multiple_of(1000) {
            progress(&format!("{count} of {keys} secrets stored"));
        }
    }
    Ok(())
}
