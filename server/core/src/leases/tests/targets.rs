//! Targets under their leases, and their admin logins.

use super::*;

#[tokio::test]
async fn what_leases_hang_on_is_not_deleted_under_them() {
    let bench = ready().await;
    let lease = issue(&bench).await;
    let open = bench.opened();
    let role = || DeleteRole { name: name(ROLE) };
    let target = || DeleteTarget { name: name(DB) };
    let refused = operation::run(&open, bench.context(), role()).await.unwrap_err();
    assert_eq!(refused.reason(), "IN_USE");
    assert!(refused.to_string().contains("still has 1 live lease;"), "{refused}");
    assert_eq!(operation::run(&open, bench.context(), target()).await.unwrap_err().reason(), "IN_USE");
    // It was left as it was.
    issue(&bench).await;
    operation::run(&open, bench.context(), RevokeLeases { of: Selector::Mine }).await.unwrap();
    drop(open);
    look_after(&bench).await;
    let open = bench.opened();
    operation::run(&open, bench.context(), role()).await.unwrap();
    assert_eq!(bench.targets.inside(DB, |inside| inside.roles.len()), 0);
    operation::run(&open, bench.context(), target()).await.unwrap();
    // Added anew under the name, it inherits nothing.
    put_target(&bench, DB, &[]).await.unwrap();
    put_role(&bench, ROLE, DB, 50).await.unwrap();
    let anew = issue(&bench).await;
    assert!(anew.target_id != lease.target_id && anew.role_id != lease.role_id);
}

#[tokio::test]
async fn a_target_moves_only_while_no_lease_is_on_it_however_often_that_is_asked() {
    let bench = ready().await;
    // Asked while there is none, and again once there is one.
    put_target_at(&bench, DB, "first.example", &[]).await.unwrap();
    let lease = issue(&bench).await;
    let refused = put_target_at(&bench, DB, "second.example", &[]).await.unwrap_err();
    assert_eq!(refused.reason(), "IN_USE");
    operation::run(&bench.opened(), bench.context(), RevokeLease { id: lease.id, force: false })
        .await
        .unwrap();
    look_after(&bench).await;
    put_target_at(&bench, DB, "second.example", &[]).await.unwrap();
}

#[tokio::test]
async fn a_target_does_not_move_under_a_lease_that_is_begun_meanwhile_which_is_of_its_new_place() {
    let bench = ready().await;
    bench.faults.delay_commits(Duration::from_millis(300));
    let meanwhile = async {
        // No lease was on it: its new place is being written.
        tokio::time::sleep(Duration::from_millis(50)).await;
        bench.faults.delay_commits(Duration::ZERO);
        try_issue(&bench, ROLE, None).await
    };
    let (moved, issued) = tokio::join!(put_target_at(&bench, DB, "second.example", &[]), meanwhile);
    moved.unwrap();
    // What was begun for the old place made nothing, and was begun again.
    issued.unwrap();
    assert_eq!((list(&bench, Selector::Mine).await.len(), bench.targets.logins(DB)), (1, 1));
}

#[tokio::test]
async fn the_kept_password_is_sent_nowhere_else_and_to_nobody_else() {
    let bench = ready().await;
    let put = async |change: fn(&mut PostgresSettings), login: Option<&[u8]>| {
        let TargetSettings::Postgres(mut settings) = settings();
        change(&mut settings);
        let put = PutTarget {
            name: name(DB),
            settings: TargetSettings::Postgres(settings),
            login: login.map(|secret| AdminLogin { secret: SecretBytes::copy_from(secret) }),
            max_ttl: secs(7_200),
            accept: Vec::new(),
            etag: None,
        };
        operation::run(&bench.opened(), bench.context(), put).await.map(drop)
    };
    let elsewhere: [fn(&mut PostgresSettings); 5] = [
        |at| at.host = Host::parse("thief.example").unwrap(),
        |at| at.port = NonZeroU16::new(5433).unwrap(),
        |at| at.server_name = Some(Host::parse("thief.example").unwrap()),
        |at| at.ca_pem = "another".to_owned(),
        |at| at.admin = PgName::parse("another").unwrap(),
    ];
    for change in elsewhere {
        let asked = bench.targets.inside(DB, |inside| inside.asked);
        let refused = put(change, None).await.unwrap_err();
        assert!(matches!(refused, VaultError::Invalid { field: "login", .. }), "{refused}");
        assert_eq!(bench.targets.inside(DB, |inside| inside.asked), asked, "before anything is sent");
        put(change, Some(b"admin")).await.unwrap();
        put(|_| (), Some(b"admin")).await.unwrap();
    }
    put(|at| at.connections = 8, None).await.unwrap();
    put(|at| at.database = PgName::parse("another").unwrap(), None).await.unwrap();
}

#[tokio::test]
async fn a_target_whose_baseline_nobody_accepted_is_not_added() {
    let bench = Bench::open(&["one"], RotationOptions::default()).await;
    let finding = Finding {
        digest: "b1".to_owned(),
        right: Right {
            object: "schema public".to_owned(),
            privilege: "CREATE".to_owned(),
            through: Some("PUBLIC".to_owned()),
        },
        closed_by: "REVOKE CREATE ON SCHEMA public FROM PUBLIC;".to_owned(),
    };
    bench.targets.inside(DB, |inside| inside.baseline.push(finding));
    for accept in [&[][..], &["b2"]] {
        let refused = put_target(&bench, DB, accept).await.unwrap_err();
        assert_eq!(refused.reason(), "BASELINE_NOT_ACCEPTED");
        assert_eq!(refused.to_string().ends_with("by its digest, which is not b2"), !accept.is_empty());
        let VaultError::Credential(CredentialError::Baseline { findings, .. }) = refused else {
            panic!("{refused}")
        };
        assert_eq!(findings[0].closed_by, "REVOKE CREATE ON SCHEMA public FROM PUBLIC;");
    }
    let refused = put_target(&bench, DB, &["b1", "b2"]).await.unwrap_err();
    assert!(matches!(&refused, VaultError::Invalid { rule, .. } if rule.contains("digest b2;")), "{refused}");
    assert_eq!(put_target(&bench, DB, &["b1"]).await.unwrap().record.accepted, ["b1"]);
    // What was accepted may be closed since.
    bench.targets.inside(DB, |inside| inside.baseline.clear());
    assert_eq!(put_target(&bench, DB, &["b1"]).await.unwrap().record.accepted, ["b1"]);
}

async fn rotate_login(bench: &Bench) -> Result<Target, VaultError> {
    let rotate = RotateTargetLogin { name: name(DB) };
    operation::run(&bench.opened(), bench.context(), rotate).await
}

#[tokio::test]
async fn the_admin_login_gets_a_password_that_only_the_vault_knows() {
    let mut bench = ready().await;
    assert!(rotate_login(&bench).await.unwrap().record.rotated.is_some());
    let first = bench.targets.inside(DB, |inside| inside.admin.clone().unwrap());
    issue(&bench).await;
    rotate_login(&bench).await.unwrap();
    assert_ne!(bench.targets.inside(DB, |inside| inside.admin.clone().unwrap()), first);
    bench.restart().await;
    issue(&bench).await;
}

/// Rotates with the nth write failing, or with the target's answer lost; the vault still gets in.
async fn rotation_cut_off(nth: Option<u64>, fault: CommitFault, dies: bool) -> bool {
    let mut bench = ready().await;
    let commits = bench.faults.commits();
    match nth {
        Some(nth) => bench.faults.on_commit(nth, fault),
        None => bench.targets.inside(DB, |inside| inside.silent = true),
    }
    drop(rotate_login(&bench).await);
    let reached = nth.is_none_or(|nth| bench.faults.commits() >= commits + nth);
    bench.targets.inside(DB, |inside| inside.silent = false);
    if dies {
        bench.restart().await;
    }
    look_after(&bench).await;
    issue(&bench).await;
    assert!(rotate_login(&bench).await.unwrap().record.rotated.is_some());
    issue(&bench).await;
    reached
}

#[tokio::test]
async fn an_issue_between_two_passwords_of_the_admin_login_is_asked_to_come_again_and_leaves_no_lease() {
    let mut nth = 0;
    // The target takes the new one, and the write after that fails.
    let mut bench = loop {
        nth += 1;
        let bench = ready().await;
        bench.faults.on_commit(nth, CommitFault::Unavailable);
        assert!(rotate_login(&bench).await.is_err());
        if bench.targets.inside(DB, |inside| inside.admin.is_some()) {
            break bench;
        }
    };
    bench.restart().await;
    let refused = try_issue(&bench, ROLE, None).await.err().unwrap();
    assert_eq!(refused.reason(), "TARGET_UNAVAILABLE");
    assert_eq!(list(&bench, Selector::Mine).await, []);
    look_after(&bench).await;
    issue(&bench).await;
    // A password that is really another one is told as it is.
    bench.targets.inside(DB, |inside| inside.admin = Some(b"set by hand".to_vec()));
    let refused = try_issue(&bench, ROLE, None).await.err().unwrap();
    assert_eq!(refused.reason(), "TARGET_ADMIN_LOGIN");
    assert!(refused.to_string().contains("`keystead target put shop-db --password-file`"), "{refused}");
}

#[tokio::test]
async fn a_rotation_of_the_admin_login_cut_off_anywhere_never_locks_the_vault_out() {
    let faults = [CommitFault::Unavailable, CommitFault::UnknownAndLost, CommitFault::UnknownAndApplied];
    for (fault, dies) in faults.into_iter().flat_map(|fault| [(fault, false), (fault, true)]) {
        let mut nth = 1;
        while rotation_cut_off(Some(nth), fault, dies).await {
            nth += 1;
        }
        assert!(nth > 2, "{nth}");
        rotation_cut_off(None, fault, dies).await;
    }
}

#[tokio::test]
async fn a_target_that_is_changed_while_its_admin_login_is_rotated_locks_nobody_out() {
    for given in [None, Some(b"admin")] {
        let mut bench = ready().await;
        bench.targets.inside(DB, |inside| inside.takes = Duration::from_millis(600));
        let changed = async {
            // The new password is on its way to the target.
            tokio::time::sleep(Duration::from_millis(700)).await;
            bench.targets.inside(DB, |inside| inside.takes = Duration::ZERO);
            let put = PutTarget {
                name: name(DB),
                settings: settings(),
                login: given.map(|secret| AdminLogin { secret: SecretBytes::copy_from(secret) }),
                max_ttl: secs(600),
                accept: Vec::new(),
                etag: None,
            };
            operation::run(&bench.opened(), bench.context(), put).await.unwrap();
        };
        let (rotated, ()) = tokio::join!(rotate_login(&bench), changed);
        assert!(rotated.unwrap().record.rotated.is_some());
        assert_ne!(bench.targets.inside(DB, |inside| inside.admin.clone()), None);
        bench.restart().await;
        look_after(&bench).await;
        issue(&bench).await;
    }
}

#[tokio::test]
async fn a_target_that_cannot_be_rotated_yet_is_settled_although_another_one_was_meanwhile() {
    let bench = ready().await;
    put_target(&bench, "other-db", &[]).await.unwrap();
    bench.targets.inside(DB, |inside| inside.takes = Duration::from_millis(100));
    bench.targets.inside("other-db", |inside| inside.away = true);
    let settled = async {
        // The flag of the first rotation is being looked after, and what it stands for is read.
        tokio::time::sleep(Duration::from_millis(20)).await;
        bench.opened().settle_target_logins().await.unwrap();
    };
    let other = async {
        tokio::time::sleep(Duration::from_millis(60)).await;
        let rotate = RotateTargetLogin { name: name("other-db") };
        operation::run(&bench.opened(), bench.context(), rotate).await.unwrap_err();
    };
    let (rotated, (), ()) = tokio::join!(rotate_login(&bench), settled, other);
    rotated.unwrap();
    bench.targets.inside("other-db", |inside| inside.away = false);
    look_after(&bench).await;
    assert_ne!(bench.targets.inside("other-db", |inside| inside.admin.clone()), None);
}

#[tokio::test]
async fn a_rotation_on_a_target_that_stays_away_is_tried_less_and_less_often() {
    let bench = ready().await;
    bench.targets.inside(DB, |inside| inside.away = true);
    let away = rotate_login(&bench).await.unwrap_err();
    assert!(away.to_string().contains("the rotation goes on by itself"), "{away}");
    let recorded = |bench: &Bench| bench.vault.audit().status().head.size;
    let before = recorded(&bench);
    for _ in 0..600 {
        bench.opened().settle_target_logins().await.unwrap();
        advance(&bench, 1);
    }
    let entries = recorded(&bench) - before;
    assert!((20..=60).contains(&entries), "{entries} entries in ten minutes");
    bench.targets.inside(DB, |inside| inside.away = false);
    advance(&bench, 60);
    bench.opened().settle_target_logins().await.unwrap();
    assert_ne!(bench.targets.inside(DB, |inside| inside.admin.clone()), None);
    // Nobody waits who asks for it again.
    bench.targets.inside(DB, |inside| inside.away = true);
    rotate_login(&bench).await.unwrap_err();
    bench.opened().settle_target_logins().await.unwrap();
    bench.targets.inside(DB, |inside| inside.away = false);
    rotate_login(&bench).await.unwrap();
}

/// The two were asked for at once: the role was stored just before its target went.
#[tokio::test]
async fn a_role_whose_target_is_gone_can_be_deleted() {
    let bench = ready().await;
    let at = keyspace::target(&bench.opened().keys.lookup.tag("target", &[DB.as_bytes()]));
    let mut batch = Batch::new();
    batch.delete(Keyspace::Targets, at);
    bench.store.commit(batch).await.unwrap();
    let role = || DeleteRole { name: name(ROLE) };
    operation::run(&bench.opened(), bench.context(), role()).await.unwrap();
    let again = operation::run(&bench.opened(), bench.context(), role()).await.unwrap_err();
    assert_eq!(again.reason(), "NOT_FOUND");
}
