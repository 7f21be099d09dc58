//! `keystead-benches logins`: how fast logins are issued and taken away in a real PostgreSQL, beside the same statements sent by
//! hand, and how long it takes to revoke many at once while the database is restarted.
//!
//! Invariant: rounds by hand and through the vault alternate on one server. Absent: any verdict.

use std::fmt::Write;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::stream::{self, StreamExt};
use keystead_client::{Client, LeaseSelector};
use keystead_tests::peers::Shop;
use tokio::time::Instant;

use crate::vault::Vault;

pub(crate) const ROLE: &str = "orders-rw";
const IN_FLIGHT: [usize; 2] = [1, 16];
/// A verifier that PostgreSQL takes as it is: 4,096 rounds, as the vault makes them.
const BY_HAND: &str = "SCRAM-SHA-256$4096:c2FsdHNhbHRzYWx0c2FsdA==$\
    yOMnPoDiJ0NFbL0PWJmsGL1Rlk2CSJvjdYqZ8xVvFmM=:yOMnPoDiJ0NFbL0PWJmsGL1Rlk2CSJvjdYqZ8xVvFmM=";

/// What a run shall be.
pub(crate) struct Plan {
    pub(crate) logins: usize,
    pub(crate) rounds: usize,
    pub(crate) many: usize,
}

/// Measures, and says what came of it.
pub(crate) async fn run(plan: &Plan, progress: impl Fn(&str)) -> Result<String> {
    progress("starting a vault and a database");
    let most = plan.many.max(plan.logins).saturating_add(100).to_string();
    let vault = Vault::start_with("fsync", &[("leases.max_live_per_principal", &most)]).await?;
    let operator = vault.operator();
    let mut shop = Shop::start(&operator).await;
    shop.add_to(&operator).await;
    let mut role = keystead_tests::peers::orders_role(ROLE);
    role.max_live = u32::try_from(plan.many.max(plan.logins).saturating_add(100))?;
    operator.credentials().put_role(role).await?;
    let mut out = String::new();
    writeln!(out, "a second, medians of {} alternating rounds of {} logins:", plan.rounds, plan.logins)?;
    for in_flight in IN_FLIGHT {
        let mut rates = [Vec::new(), Vec::new(), Vec::new(), Vec::new()];
        for round in 0..plan.rounds {
            progress(&format!("{in_flight} in flight, round {round}"));
            let names: Vec<String> =
                (0..plan.logins).map(|number| format!("hand_{round}_{number}")).collect();
            let [made, removed] = by_hand(&shop, &names, in_flight).await?;
            let [issued, revoked] = through_the_vault(&operator, &shop, plan.logins, in_flight).await?;
            for (rates, rate) in rates.iter_mut().zip([made, issued, removed, revoked]) {
                rates.push(rate);
            }
        }
        let [made, issued, removed, revoked] = rates.map(median);
        writeln!(
            out,
            "  {in_flight:>2} in flight: made by hand {made:.0}, issued {issued:.0}; \
             removed by hand {removed:.0}, revoked {revoked:.0}"
        )?;
    }
    writeln!(out, "{}", many(&operator, &mut shop, plan.many, progress).await?)?;
    Ok(out)
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied().unwrap_or_default()
}

fn rate(count: usize, since: Instant) -> Result<f64> {
    Ok(f64::from(u32::try_from(count)?) / since.elapsed().as_secs_f64())
}

/// The statements that an issue and a revocation come to, over as many connections.
async fn by_hand(shop: &Shop, names: &[String], in_flight: usize) -> Result<[f64; 2]> {
    let mut sessions = Vec::new();
    for _ in 0..in_flight {
        sessions.push(shop.server.superuser(keystead_tests::peers::DATABASE).await?);
    }
    let share = names.len().div_ceil(in_flight);
    let run = async |statement: fn(&str) -> String| -> Result<f64> {
        let began = Instant::now();
        let work = sessions.iter().zip(names.chunks(share)).map(|(session, names)| async move {
            for name in names {
                session.batch_execute(&statement(name)).await?;
            }
            anyhow::Ok(())
        });
        futures::future::try_join_all(work).await?;
        rate(names.len(), began)
    };
    shop.run("DO $$ BEGIN CREATE ROLE hand_group; EXCEPTION WHEN duplicate_object THEN NULL; END $$").await;
    let made = run(|name| {
        format!(
            "CREATE ROLE {name} LOGIN PASSWORD '{BY_HAND}' VALID UNTIL '2100-01-01' CONNECTION LIMIT 4 IN ROLE hand_group"
        )
    })
    .await?;
    let removed =
        run(|name| format!("ALTER ROLE {name} NOLOGIN; DROP OWNED BY {name}; DROP ROLE {name}")).await?;
    Ok([made, removed])
}

async fn through_the_vault(
    operator: &Client,
    shop: &Shop,
    logins: usize,
    in_flight: usize,
) -> Result<[f64; 2]> {
    let began = Instant::now();
    issue(operator, logins, in_flight).await?;
    let issued = rate(logins, began)?;
    let began = Instant::now();
    operator.leases().revoke_all(&LeaseSelector::Role(ROLE.to_owned())).await?;
    gone(shop).await?;
    Ok([issued, rate(logins, began)?])
}

async fn issue(operator: &Client, logins: usize, in_flight: usize) -> Result<()> {
    let one = |_| async move { operator.credentials().issue(ROLE).await };
    let mut work = stream::iter(0..logins).map(one).buffer_unordered(in_flight);
    while let Some(issued) = work.next().await {
        issued.context("a login was not issued")?;
    }
    Ok(())
}

/// Waits until there is no login of the vault.
pub(crate) async fn gone(shop: &Shop) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(900);
    while !shop.logins().await.is_empty() {
        if Instant::now() > deadline {
            bail!("logins are left after 15 minutes");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Many at once, with the database restarted midway.
async fn many(operator: &Client, shop: &mut Shop, many: usize, progress: impl Fn(&str)) -> Result<String> {
    progress(&format!("issuing {many} logins"));
    issue(operator, many, 16).await?;
    let began = Instant::now();
    operator.leases().revoke_all(&LeaseSelector::RolePrefix("orders".to_owned())).await?;
    let marked = began.elapsed();
    while shop.logins().await.len() > many / 2 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    progress("restarting the database");
    shop.server.stop();
    shop.start_again().await;
    gone(shop).await?;
    Ok(format!(
        "{many} live leases revoked by one call: marked in {:.1} s, all gone after {:.1} s, with a restart midway",
        marked.as_secs_f64(),
        began.elapsed().as_secs_f64()
    ))
}
