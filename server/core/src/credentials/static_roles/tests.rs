//! Static roles on a target in memory: whatever is cut off wherever, what is handed out is let in.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use keystead_crypto::secret::SecretBytes;
use keystead_domain::rights::Right;
use keystead_domain::rights::postgres::PgName;
use keystead_domain::role::OnExcess;
use keystead_domain::static_role::StaticLogins;
use keystead_domain::static_role::Which::{First, Second};
use keystead_domain::target::PostgresSettings;
use keystead_storage::fault::CommitFault;
use keystead_storage::{Range, Storage};

use super::credential::{ReadStaticCredential, StaticCredential};
use super::rotate::RotateStaticRole;
use super::*;
use crate::credentials::targets::{DeleteTarget, PutTarget, Target};
use crate::engine::{AdminLogin, Field};
use crate::leases::tests::{DB, name, put_target, put_target_at, secs, settings};
use crate::operation;
use crate::rotation::{Beside, RotationOptions};
use crate::testing::Bench;

const ROLE: &str = "ledger";

fn logins(alternate: bool) -> StaticLogins {
    let second = alternate.then(|| PgName::parse("ledger_b").unwrap());
    StaticLogins::Postgres { first: PgName::parse("ledger_a").unwrap(), second }
}

fn given(password: &str) -> Option<SecretBytes> {
    Some(SecretBytes::copy_from(password.as_bytes()))
}

fn definition(alternate: bool) -> PutStaticRole {
    PutStaticRole {
        name: name(ROLE),
        target: name(DB),
        logins: logins(alternate),
        first: given("first"),
        second: given("second").filter(|_| alternate),
        period: Some(secs(3_600)),
        on_excess: OnExcess::Refuse,
        etag: None,
    }
}

async fn put(bench: &Bench, op: PutStaticRole) -> Result<StaticRole, VaultError> {
    operation::run(&bench.opened(), bench.context(), op).await
}

async fn ready(alternate: bool) -> Bench {
    let bench = Bench::open(&["one"], RotationOptions::default()).await;
    put_target(&bench, DB, &[]).await.unwrap();
    bench.targets.inside(DB, |inside| {
        inside.others.insert("ledger_a".to_owned(), b"first".to_vec());
        inside.others.insert("ledger_b".to_owned(), b"second".to_vec());
    });
    put(&bench, definition(alternate)).await.unwrap();
    bench
}

async fn rotate(bench: &Bench) -> Result<StaticRole, VaultError> {
    operation::run(&bench.opened(), bench.context(), RotateStaticRole { name: name(ROLE) }).await
}

async fn read(bench: &Bench) -> StaticRole {
    operation::run(&bench.opened(), bench.context(), ReadStaticRole { name: name(ROLE) }).await.unwrap()
}

async fn credential(bench: &Bench) -> StaticCredential {
    operation::run(&bench.opened(), bench.context(), ReadStaticCredential { name: name(ROLE) }).await.unwrap()
}

fn parts(credential: &StaticCredential) -> (String, Vec<u8>) {
    let [(_, Field::Plain(login)), (_, Field::Secret(secret))] = credential.credential.0.as_slice() else {
        panic!("a login and a password")
    };
    (login.clone(), secret.expose().to_vec())
}

/// Whether what is handed out now is let in.
async fn works(bench: &Bench) -> bool {
    let (login, password) = parts(&credential(bench).await);
    bench.targets.inside(DB, |inside| inside.others.get(&login) == Some(&password))
}

async fn look_after(bench: &Bench) {
    match bench.opened().look_after_static_roles().await {
        Ok(()) | Err(VaultError::Storage(_)) => {}
        Err(error) => panic!("{error}"),
    }
}

fn advance(bench: &Bench, seconds: u64) {
    bench.clock.advance(Duration::from_secs(seconds));
}

fn slow(bench: &Bench, target: &str, takes: Duration) {
    bench.targets.inside(target, |inside| (inside.takes, inside.asked) = (takes, 0));
}

/// Comes back while the first call to a slow target is under way.
async fn asked(bench: &Bench, target: &str) {
    while bench.targets.inside(target, |inside| inside.asked) == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn data_keys(bench: &Bench) -> BTreeSet<Vec<u8>> {
    let snapshot = bench.store.snapshot().await.unwrap();
    let all = snapshot.range(Keyspace::DataKeys, Range::all(None), 1024).await.unwrap();
    all.into_iter().map(|(at, _)| at.to_vec()).collect()
}

#[tokio::test]
async fn a_password_that_the_vault_was_given_is_handed_out_until_it_is_changed() {
    let bench = ready(false).await;
    assert_eq!(parts(&credential(&bench).await), ("ledger_a".to_owned(), b"first".to_vec()));
    assert_eq!(read(&bench).await.record.schedule.version, 0);
    let rotated = rotate(&bench).await.unwrap().record.schedule;
    assert_eq!((rotated.version, rotated.under_way), (1, None));
    let (_, password) = parts(&credential(&bench).await);
    assert_ne!(password, b"first");
    assert!(works(&bench).await);
}

#[tokio::test]
async fn a_password_is_changed_when_it_is_due_and_not_before() {
    let mut bench = ready(false).await;
    look_after(&bench).await;
    advance(&bench, 3_590);
    look_after(&bench).await;
    assert_eq!(read(&bench).await.record.schedule.version, 0);
    advance(&bench, 11);
    look_after(&bench).await;
    assert_eq!(read(&bench).await.record.schedule.version, 1);
    look_after(&bench).await;
    assert_eq!(read(&bench).await.record.schedule.version, 1, "once for each period");
    // A vault that was shut meanwhile does it when it opens.
    bench.kill();
    advance(&bench, 3_601);
    bench.restart().await;
    look_after(&bench).await;
    assert_eq!(read(&bench).await.record.schedule.version, 2);
    assert!(works(&bench).await);
}

#[tokio::test]
async fn of_two_logins_what_was_handed_out_works_until_the_rotation_after_the_next() {
    let bench = ready(true).await;
    let mut before = parts(&credential(&bench).await);
    for _ in 0..4 {
        rotate(&bench).await.unwrap();
        let (login, password) = &before;
        let still = bench.targets.inside(DB, |inside| inside.others.get(login) == Some(password));
        assert!(still, "{login} was changed under its holders");
        let after = parts(&credential(&bench).await);
        assert_ne!(after.0, before.0);
        assert!(works(&bench).await);
        before = after;
    }
}

/// Rotates with the nth write failing; whatever the vault hands out then works, or works once it goes on.
async fn cut_off(alternate: bool, nth: u64, fault: CommitFault, dies: bool) -> bool {
    let mut bench = ready(alternate).await;
    let commits = bench.faults.commits();
    bench.faults.on_commit(nth, fault);
    drop(rotate(&bench).await);
    if bench.faults.commits() < commits + nth {
        return false;
    }
    if dies {
        bench.restart().await;
    }
    assert!(!alternate || works(&bench).await, "of two, one works all the time");
    for _ in 0..3 {
        advance(&bench, 61);
        look_after(&bench).await;
    }
    assert!(works(&bench).await, "write {nth}, {fault:?}, dies: {dies}");
    // And it goes on so: nothing of the one that was cut off is in the way.
    rotate(&bench).await.unwrap();
    assert!(works(&bench).await);
    assert_eq!(read(&bench).await.record.schedule.under_way, None);
    true
}

#[tokio::test]
async fn a_rotation_cut_off_at_any_write_ends_with_a_password_that_the_vault_knows() {
    let faults = [CommitFault::Unavailable, CommitFault::UnknownAndLost, CommitFault::UnknownAndApplied];
    for (fault, dies) in faults.into_iter().flat_map(|fault| [(fault, false), (fault, true)]) {
        for alternate in [false, true] {
            let mut nth = 1;
            while cut_off(alternate, nth, fault, dies).await {
                nth += 1;
            }
            assert!(nth > 4, "create, set, test and finish are written one after another: {nth}");
        }
    }
}

#[tokio::test]
async fn a_target_that_takes_the_password_and_does_not_say_so_is_tried() {
    let bench = ready(false).await;
    bench.targets.inside(DB, |inside| inside.silent = true);
    rotate(&bench).await.unwrap();
    assert!(works(&bench).await);
}

#[tokio::test]
async fn a_target_that_is_away_is_tried_again_later_and_later() {
    let bench = ready(false).await;
    bench.targets.inside(DB, |inside| inside.away = true);
    let entries = bench.vault.audit().size();
    assert_eq!(rotate(&bench).await.unwrap_err().reason(), "TARGET_UNAVAILABLE");
    for _ in 0..120 {
        advance(&bench, 1);
        look_after(&bench).await;
    }
    let rotation = read(&bench).await.record.schedule.under_way.unwrap();
    assert!((5..12).contains(&rotation.failures), "{}", rotation.failures);
    let said = read(&bench).await.record.schedule.last_error.unwrap();
    assert!(said.contains("does not answer"), "{said}");
    assert!(bench.vault.audit().size() - entries < 60, "each try is recorded, so there are few");
    assert_eq!(parts(&credential(&bench).await).1, b"first", "the target never heard of another");
    bench.targets.inside(DB, |inside| inside.away = false);
    advance(&bench, 61);
    look_after(&bench).await;
    assert_eq!(read(&bench).await.record.schedule.version, 1);
    assert!(works(&bench).await);
}

/// While the target is being told of a new password, nobody takes that password away.
#[tokio::test]
async fn whoever_changes_or_deletes_it_waits_for_a_rotation() {
    for deletes in [false, true] {
        let bench = ready(false).await;
        slow(&bench, DB, Duration::from_millis(50));
        let changing = async {
            asked(&bench, DB).await;
            let open = bench.opened();
            if deletes {
                let delete = DeleteStaticRole { name: name(ROLE) };
                operation::run(&open, bench.context(), delete).await.unwrap();
                return;
            }
            // What the login has at this moment; by its turn it is another.
            let refused = put(&bench, definition(false)).await.unwrap_err();
            assert_eq!(refused.reason(), "STATIC_LOGIN_REFUSED");
        };
        let (rotated, ()) = tokio::join!(rotate(&bench), changing);
        assert_eq!(rotated.unwrap().record.schedule.version, 1);
        assert!(deletes || works(&bench).await);
    }
}

#[tokio::test]
async fn a_target_that_forgot_the_new_password_is_given_it_again() {
    let bench = ready(false).await;
    let commits = bench.faults.commits();
    // Create and set are stored, and then the vault is away.
    bench.faults.on_commit(3, CommitFault::Unavailable);
    drop(rotate(&bench).await);
    assert!(bench.faults.commits() >= commits + 3);
    assert_eq!(
        read(&bench).await.record.schedule.under_way.unwrap().step,
        keystead_domain::static_role::Step::Set
    );
    assert!(works(&bench).await, "the new one is handed out");
    let recorded = ReadStaticCredential::detail(&credential(&bench).await);
    assert!(recorded.contains(&("version", "1".to_owned())), "{recorded:?}");
    // It came back from a copy.
    bench.targets.inside(DB, |inside| inside.others.insert("ledger_a".to_owned(), b"first".to_vec()));
    advance(&bench, 61);
    look_after(&bench).await;
    assert_eq!(read(&bench).await.record.schedule.version, 1);
    assert!(works(&bench).await);
}

#[tokio::test]
async fn a_rotation_that_goes_well_has_no_password_refused() {
    let bench = ready(true).await;
    for _ in 0..3 {
        rotate(&bench).await.unwrap();
    }
    assert_eq!(bench.targets.inside(DB, |inside| inside.refused), 0);
}

#[tokio::test]
async fn a_login_that_only_a_person_can_mend_is_asked_once_an_hour() {
    let bench = ready(false).await;
    bench.targets.inside(DB, |inside| inside.others.insert("ledger_a".to_owned(), b"by hand".to_vec()));
    rotate(&bench).await.unwrap_err();
    let before = bench.targets.inside(DB, |inside| inside.refused);
    for _ in 0..10 {
        advance(&bench, 300);
        look_after(&bench).await;
    }
    assert_eq!(bench.targets.inside(DB, |inside| inside.refused), before);
    advance(&bench, 700);
    look_after(&bench).await;
    assert!(bench.targets.inside(DB, |inside| inside.refused) > before);
}

#[tokio::test]
async fn a_vault_that_is_sealed_begins_no_rotation() {
    let bench = ready(false).await;
    advance(&bench, 3_601);
    let open = bench.opened();
    let (vault, context) = (Arc::clone(&bench.vault), bench.context());
    let sealing = tokio::spawn(async move { vault.seal(context).await });
    while !open.closing() {
        tokio::task::yield_now().await;
    }
    open.look_after_static_roles().await.unwrap();
    assert_eq!(bench.targets.inside(DB, |inside| inside.others["ledger_a"].clone()), b"first");
    drop(open);
    sealing.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_login_is_one_servers_whatever_the_targets_are_called() {
    let bench = ready(false).await;
    put_target(&bench, "same-server", &[]).await.unwrap();
    let op = PutStaticRole { name: name("twin"), target: name("same-server"), ..definition(false) };
    assert_eq!(put(&bench, op).await.unwrap_err().reason(), "STATIC_LOGIN_TAKEN");
    // Nor is it the admin login of another target there.
    let logins = StaticLogins::Postgres { first: PgName::parse("ks_admin").unwrap(), second: None };
    let op = PutStaticRole { name: name("admin"), logins, ..definition(false) };
    assert_eq!(put(&bench, op).await.unwrap_err().reason(), "STATIC_LOGIN_TAKEN");
}

async fn put_target_of(bench: &Bench, target: &str, admin: &str) -> Result<Target, VaultError> {
    let TargetSettings::Postgres(settings) = settings();
    let put = PutTarget {
        name: name(target),
        settings: TargetSettings::Postgres(PostgresSettings {
            admin: PgName::parse(admin).unwrap(),
            ..settings
        }),
        login: Some(AdminLogin { secret: SecretBytes::copy_from(b"admin") }),
        max_ttl: secs(7_200),
        accept: Vec::new(),
        etag: None,
    };
    operation::run(&bench.opened(), bench.context(), put).await
}

#[tokio::test]
async fn no_target_works_by_the_login_of_a_static_role() {
    let bench = ready(true).await;
    for (target, admin) in [("new-db", "ledger_a"), ("new-db", "ledger_b"), (DB, "ledger_a")] {
        let refused = put_target_of(&bench, target, admin).await.err().unwrap();
        assert_eq!(refused.reason(), "STATIC_LOGIN_TAKEN", "{target}");
    }
    put_target_of(&bench, "new-db", "ks_other").await.unwrap();
}

#[tokio::test]
async fn a_target_and_a_static_role_that_come_together_do_not_get_one_login() {
    for target_first in [false, true] {
        let bench = Bench::open(&["one"], RotationOptions::default()).await;
        put_target(&bench, DB, &[]).await.unwrap();
        bench.targets.inside(DB, |inside| inside.others.insert("ledger_a".to_owned(), b"first".to_vec()));
        // Whoever is second has looked already, and waits for a target.
        let second = if target_first { DB } else { "new-db" };
        slow(&bench, second, Duration::from_millis(200));
        let target = async {
            if target_first {
                asked(&bench, second).await;
            }
            put_target_of(&bench, "new-db", "ledger_a").await
        };
        let role = async {
            if !target_first {
                asked(&bench, second).await;
            }
            put(&bench, definition(false)).await
        };
        let (target, role) = tokio::join!(target, role);
        let (taken, refused) =
            if target_first { (target.is_ok(), role.err()) } else { (role.is_ok(), target.err()) };
        assert_eq!(refused.unwrap().reason(), "STATIC_LOGIN_TAKEN");
        assert!(taken);
    }
}

#[tokio::test]
async fn one_target_that_is_away_keeps_no_other_waiting() {
    let bench = ready(false).await;
    put_target(&bench, "other-db", &[]).await.unwrap();
    bench.targets.inside("other-db", |inside| inside.others.insert("x".to_owned(), b"first".to_vec()));
    let logins = StaticLogins::Postgres { first: PgName::parse("x").unwrap(), second: None };
    put(&bench, PutStaticRole { name: name("other"), target: name("other-db"), logins, ..definition(false) })
        .await
        .unwrap();
    bench.targets.inside(DB, |inside| inside.away = true);
    advance(&bench, 3_601);
    look_after(&bench).await;
    let open = bench.opened();
    let other = operation::run(&open, bench.context(), ReadStaticRole { name: name("other") });
    assert_eq!(other.await.unwrap().record.schedule.version, 1);
    assert_eq!(read(&bench).await.record.schedule.version, 0);
}

/// Two static roles of one target, both due while it is away: one of them was tried.
async fn two_due_on_a_target_that_is_away() -> Bench {
    let bench = ready(false).await;
    let logins = StaticLogins::Postgres { first: PgName::parse("ledger_b").unwrap(), second: None };
    let other = PutStaticRole { name: name("other"), logins, first: given("second"), ..definition(false) };
    put(&bench, other).await.unwrap();
    bench.targets.inside(DB, |inside| inside.away = true);
    advance(&bench, 3_601);
    look_after(&bench).await;
    bench
}

async fn both(bench: &Bench) -> Vec<StaticRoleRecord> {
    let list = ListStaticRoles { limit: 10, after: None };
    let page = operation::run(&bench.opened(), bench.context(), list).await.unwrap();
    page.roles.into_iter().map(|role| role.record).collect()
}

#[tokio::test]
async fn a_target_that_is_away_is_not_asked_for_each_of_its_static_roles() {
    let bench = two_due_on_a_target_that_is_away().await;
    look_after(&bench).await;
    let tried = both(&bench).await.into_iter().filter(|role| role.schedule.under_way.is_some());
    assert_eq!(tried.count(), 1);
}

#[tokio::test]
async fn a_target_that_was_mended_is_not_left_alone_any_longer() {
    let bench = two_due_on_a_target_that_is_away().await;
    bench.targets.inside(DB, |inside| inside.away = false);
    put_target(&bench, DB, &[]).await.unwrap();
    look_after(&bench).await;
    let changed = both(&bench).await.into_iter().filter(|role| role.schedule.version == 1);
    assert_eq!(changed.count(), 1, "the one that was tried has its own pause");
    // Nor is one that is gone remembered.
    bench.targets.inside(DB, |inside| inside.away = true);
    advance(&bench, 3_700);
    look_after(&bench).await;
    let open = bench.opened();
    let paused = both(&bench).await[0].target_id;
    let is_paused = || open.links.static_pauses.holds(paused, Duration::ZERO);
    assert!(is_paused());
    for role in [ROLE, "other"] {
        let delete = DeleteStaticRole { name: name(role) };
        operation::run(&open, bench.context(), delete).await.unwrap();
    }
    operation::run(&open, bench.context(), DeleteTarget { name: name(DB) }).await.unwrap();
    assert!(!is_paused());
}

#[tokio::test]
async fn a_password_that_somebody_else_changed_is_named_and_mended_by_giving_it() {
    for alternate in [false, true] {
        let bench = ready(alternate).await;
        let login = if alternate { "ledger_b" } else { "ledger_a" };
        bench.targets.inside(DB, |inside| inside.others.insert(login.to_owned(), b"by hand".to_vec()));
        let refused = rotate(&bench).await.unwrap_err();
        assert_eq!(refused.reason(), "STATIC_LOGIN_REFUSED");
        assert!(refused.to_string().contains(login), "{refused}");
        let (first, second) = (given("by hand"), given("by hand"));
        let op = PutStaticRole {
            first: first.filter(|_| !alternate),
            second: second.filter(|_| alternate),
            ..definition(alternate)
        };
        assert_eq!(put(&bench, op).await.unwrap().record.schedule.under_way, None);
        assert!(works(&bench).await);
        rotate(&bench).await.unwrap();
        assert!(works(&bench).await);
    }
}

#[tokio::test]
async fn what_is_not_let_in_or_can_do_too_much_is_not_defined() {
    let bench = Bench::open(&["one"], RotationOptions::default()).await;
    put_target(&bench, DB, &[]).await.unwrap();
    let before = data_keys(&bench).await;
    let refused = put(&bench, definition(false)).await.unwrap_err();
    assert_eq!(refused.reason(), "STATIC_LOGIN_REFUSED");
    bench.targets.inside(DB, |inside| {
        inside.others.insert("ledger_a".to_owned(), b"first".to_vec());
        let (object, privilege) = ("role ledger_a".to_owned(), "SUPERUSER".to_owned());
        inside.excess.push(Right { object, privilege, through: None });
    });
    assert_eq!(put(&bench, definition(false)).await.unwrap_err().reason(), "RIGHTS_IN_EXCESS");
    let lacking = PutStaticRole { first: None, ..definition(false) };
    assert_eq!(put(&bench, lacking).await.unwrap_err().reason(), "INVALID_ARGUMENT");
    let twice = StaticLogins::Postgres {
        first: PgName::parse("same").unwrap(),
        second: Some(PgName::parse("same").unwrap()),
    };
    let op = PutStaticRole { logins: twice, ..definition(true) };
    assert_eq!(put(&bench, op).await.unwrap_err().reason(), "INVALID_ARGUMENT");
    let often = PutStaticRole { period: Some(secs(59)), ..definition(false) };
    assert_eq!(put(&bench, often).await.unwrap_err().reason(), "INVALID_ARGUMENT");
    assert_eq!(data_keys(&bench).await, before, "nothing of it was kept");
    let warned = PutStaticRole { on_excess: OnExcess::Warn, ..definition(false) };
    put(&bench, warned).await.unwrap();
}

#[tokio::test]
async fn a_login_is_one_static_roles_and_a_static_role_keeps_its_logins() {
    let bench = ready(true).await;
    for login in ["ledger_a", "ledger_b"] {
        let logins = StaticLogins::Postgres { first: PgName::parse(login).unwrap(), second: None };
        let op = PutStaticRole { name: name("thief"), logins, second: None, ..definition(false) };
        assert_eq!(put(&bench, op).await.unwrap_err().reason(), "STATIC_LOGIN_TAKEN");
    }
    let moved = put(&bench, definition(false)).await.unwrap_err();
    assert_eq!(moved.reason(), "INVALID_ARGUMENT");
    // Once it is gone its logins are free, and every key of its passwords is destroyed.
    let keys = data_keys(&bench).await.len();
    operation::run(&bench.opened(), bench.context(), DeleteStaticRole { name: name(ROLE) }).await.unwrap();
    assert_eq!(data_keys(&bench).await.len(), keys - 2);
    put(&bench, definition(false)).await.unwrap();
}

#[tokio::test]
async fn passwords_that_are_no_more_leave_no_key_behind() {
    let bench = ready(true).await;
    let keys = data_keys(&bench).await;
    for _ in 0..3 {
        rotate(&bench).await.unwrap();
    }
    let after = data_keys(&bench).await;
    assert_eq!(after.len(), keys.len());
    assert_eq!(after.intersection(&keys).count(), keys.len() - 2, "both passwords are others");
    // Given by hand in the midst of a rotation: the pending one goes too.
    bench.targets.inside(DB, |inside| inside.away = true);
    rotate(&bench).await.unwrap_err();
    bench.targets.inside(DB, |inside| inside.away = false);
    let which = read(&bench).await.record.schedule.under_way.unwrap().which;
    let login = logins(true).name(which).unwrap().to_owned();
    bench.targets.inside(DB, |inside| inside.others.insert(login, b"by hand".to_vec()));
    let op = PutStaticRole {
        first: given("by hand").filter(|_| which == First),
        second: given("by hand").filter(|_| which == Second),
        ..definition(true)
    };
    put(&bench, op).await.unwrap();
    assert_eq!(data_keys(&bench).await.len(), keys.len());
}

#[tokio::test]
async fn a_target_is_neither_moved_nor_deleted_under_its_static_roles() {
    let bench = ready(false).await;
    assert_eq!(put_target_at(&bench, DB, "elsewhere.example", &[]).await.unwrap_err().reason(), "IN_USE");
    let open = bench.opened();
    let delete = || operation::run(&open, bench.context(), DeleteTarget { name: name(DB) });
    let refused = delete().await.unwrap_err();
    assert!(refused.to_string().contains("static role"), "{refused}");
    operation::run(&open, bench.context(), DeleteStaticRole { name: name(ROLE) }).await.unwrap();
    delete().await.unwrap();
}

#[tokio::test]
async fn another_period_takes_effect_without_asking_the_target() {
    let bench = ready(false).await;
    // From here on it is not looked at again before it is due.
    look_after(&bench).await;
    bench.targets.inside(DB, |inside| inside.away = true);
    let op = PutStaticRole { first: None, period: Some(secs(60)), ..definition(false) };
    put(&bench, op).await.unwrap();
    bench.targets.inside(DB, |inside| inside.away = false);
    advance(&bench, 61);
    look_after(&bench).await;
    assert_eq!(read(&bench).await.record.schedule.version, 1);
    let op = PutStaticRole { first: None, period: None, ..definition(false) };
    put(&bench, op).await.unwrap();
    advance(&bench, 7_200);
    look_after(&bench).await;
    assert_eq!(read(&bench).await.record.schedule.version, 1, "only when somebody asks");
}
