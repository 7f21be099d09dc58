//! Leases on a target in memory: what each ends in, wherever it is cut off.

mod deleting;
mod issuing;
mod owners;
mod revoking;
mod targets;
mod upkeep;
mod watching;

use std::num::NonZeroU16;
use std::time::Duration;

use keystead_domain::id::{RecordId, RequestId};
use keystead_domain::lease::{LeaseRecord, LeaseState, Why};
use keystead_domain::name::Name;
use keystead_domain::rights::Right;
use keystead_domain::rights::postgres::{PgName, PostgresRole};
use keystead_domain::role::{Declaration, OnExcess};
use keystead_domain::target::{Host, PostgresSettings, TargetSettings};
use keystead_domain::time::{Ttl, UnixMillis};
use keystead_storage::fault::CommitFault;
use keystead_storage::{Batch, Keyspace, Range, Storage, keyspace};

use super::*;
use crate::auth::RevokeSelf;
use crate::credentials::admin::RotateTargetLogin;
use crate::credentials::issue::{Delivered, IssueCredential};
use crate::credentials::roles::{DeleteRole, PutRole};
use crate::credentials::targets::{DeleteTarget, PutTarget, Target};
use crate::engine::{AdminLogin, Field, Finding};
use crate::operation;
use crate::rotation::RotationOptions;
use crate::testing::Bench;
use keystead_crypto::secret::SecretBytes;

pub(crate) const DB: &str = "shop-db";
const ROLE: &str = "orders-rw";

pub(crate) fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

pub(crate) fn secs(seconds: u64) -> Ttl {
    Ttl::from_secs(seconds).unwrap()
}

pub(crate) fn settings() -> TargetSettings {
    TargetSettings::Postgres(PostgresSettings {
        host: Host::parse("localhost").unwrap(),
        port: NonZeroU16::new(5432).unwrap(),
        database: PgName::parse("shop").unwrap(),
        ca_pem: String::new(),
        server_name: None,
        admin: PgName::parse("ks_admin").unwrap(),
        connections: 4,
    })
}

pub(crate) async fn put_target(bench: &Bench, target: &str, accept: &[&str]) -> Result<Target, VaultError> {
    put_target_at(bench, target, "localhost", accept).await
}

pub(crate) async fn put_target_at(
    bench: &Bench,
    target: &str,
    host: &str,
    accept: &[&str],
) -> Result<Target, VaultError> {
    let TargetSettings::Postgres(settings) = settings();
    let put = PutTarget {
        name: name(target),
        settings: TargetSettings::Postgres(PostgresSettings { host: Host::parse(host).unwrap(), ..settings }),
        login: Some(AdminLogin { secret: SecretBytes::copy_from(b"admin") }),
        max_ttl: secs(7_200),
        accept: accept.iter().map(|digest| (*digest).to_owned()).collect(),
        etag: None,
    };
    operation::run(&bench.opened(), bench.context(), put).await
}

async fn put_role(bench: &Bench, role: &str, target: &str, max_live: u32) -> Result<(), VaultError> {
    let put = PutRole {
        name: name(role),
        target: name(target),
        declaration: Declaration::Postgres(PostgresRole::default()),
        default_ttl: secs(180),
        max_ttl: secs(3_600),
        max_live,
        on_excess: OnExcess::Refuse,
        etag: None,
    };
    operation::run(&bench.opened(), bench.context(), put).await.map(drop)
}

async fn ready() -> Bench {
    let bench = Bench::open(&["one"], RotationOptions::default()).await;
    put_target(&bench, DB, &[]).await.unwrap();
    put_role(&bench, ROLE, DB, 50).await.unwrap();
    bench
}

async fn try_issue(bench: &Bench, role: &str, id: Option<&str>) -> Result<Delivered, VaultError> {
    let request_id = id.map(|id| RequestId::parse(id).unwrap());
    let issue = IssueCredential { role: name(role), ttl: None, request_id };
    let undelivered = operation::run(&bench.opened(), bench.context(), issue).await?;
    Ok(undelivered.deliver().unwrap())
}

async fn issue(bench: &Bench) -> LeaseRecord {
    try_issue(bench, ROLE, None).await.unwrap().lease
}

fn password(delivered: &Delivered) -> Vec<u8> {
    let Some((_, Field::Secret(secret))) = delivered.credential.0.first() else { panic!("no password") };
    secret.expose().to_vec()
}

async fn read(bench: &Bench, id: RecordId) -> Result<LeaseRecord, VaultError> {
    operation::run(&bench.opened(), bench.context(), ReadLease { id }).await
}

async fn list(bench: &Bench, of: Selector) -> Vec<LeaseRecord> {
    let list = ListLeases { of, limit: 100, after: None };
    operation::run(&bench.opened(), bench.context(), list).await.unwrap().leases
}

/// Rounds of the server's tasks, until one begins nothing and nothing is under way.
async fn look_after(bench: &Bench) -> Round {
    match bench.opened().settle_target_logins().await {
        Ok(()) | Err(VaultError::Storage(_)) => {}
        Err(error) => panic!("{error}"),
    }
    for _ in 0..200 {
        let open = bench.opened();
        let idle = open.leases.under_way.is_idle();
        match open.look_after_leases().await {
            Ok(round) if round.begun == 0 && idle => return round,
            // A write that a test lets fail.
            Err(VaultError::Storage(_)) | Ok(_) => {}
            Err(error) => panic!("{error}"),
        }
        // What was begun goes on beside it.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("the rounds do not end");
}

fn advance(bench: &Bench, seconds: u64) {
    bench.clock.advance(Duration::from_secs(seconds));
}

/// Every key of the index, but for those of jobs.
async fn index(bench: &Bench) -> usize {
    let snapshot = bench.store.snapshot().await.unwrap();
    snapshot.range(Keyspace::LeaseIndex, Range::all(None), 1024).await.unwrap().len()
}

async fn reconcile(bench: &Bench) -> Reconciled {
    bench.opened().reconcile_leases().await.unwrap()
}

#[test]
fn records_are_as_their_page_says() {
    use crate::records;
    use crate::records::vectors::check;
    use keystead_domain::lease::{Handle, NewLease};
    let made = UnixMillis(1_700_000_000_000);
    let mut lease = LeaseRecord::begin(NewLease {
        id: RecordId([0xc3; 16]),
        owner: keystead_domain::principal::PrincipalName::service("shop").unwrap(),
        owner_generation: made.0,
        session: None,
        role: name(ROLE),
        role_id: RecordId([0xc2; 16]),
        target: name(DB),
        target_id: RecordId([0xc1; 16]),
        handle: Handle { name: "ks_login".to_owned(), detail: vec![0xee; 2] },
        now: made,
        period: secs(900),
        max_expires: UnixMillis(made.0 + 3_600_000),
    })
    .unwrap();
    lease.activate().unwrap();
    check("record.lease", &records::encode(&lease).unwrap());
    lease.begin_revoking(Why::Asked, UnixMillis(made.0 + 1)).unwrap();
    lease.failed("away", 1_000, UnixMillis(made.0 + 2)).unwrap();
    let by = keystead_domain::principal::PrincipalName::operator("ann").unwrap();
    lease.close(keystead_domain::lease::Closed::Forced { at: UnixMillis(made.0 + 3), by }).unwrap();
    check("record.lease-closed", &records::encode(&lease).unwrap());
    let state = State { mark: made, low: vec![28_333_333; 16] };
    check("record.leases", &records::encode(&state).unwrap());
    check("record.lease-job", &many::vector());
}
