//! Registered principals: certificates belong to one, and a change counts on connections that are open.

use keystead_client::v1;
use keystead_tests::{TestVault, spiffe_matcher};

use crate::{SHOP, fields, get, put, reason};

fn principal(name: &str, spiffe: &str) -> v1::Principal {
    v1::Principal {
        name: name.to_owned(),
        certificates: vec![spiffe_matcher(spiffe)],
        ..v1::Principal::default()
    }
}

#[tokio::test]
async fn disabling_and_deleting_count_on_the_next_request() {
    let vault = TestVault::start().await;
    let auth = vault.operator().auth();
    vault.policy("shop", SHOP).await;
    let shop = vault.service("shop").await;
    put(&vault.operator(), "shop/a", "x").await;
    assert_eq!(get(&shop, "shop/a").await, "x");

    let mut record = auth.principal("service/shop").await.unwrap();
    record.disabled = true;
    let disabled = auth.put_principal(record).await.unwrap();
    assert_eq!(reason(shop.secrets().get("shop/a").await), "UNAUTHENTICATED");
    auth.put_principal(v1::Principal { disabled: false, ..disabled }).await.unwrap();
    assert_eq!(get(&shop, "shop/a").await, "x");
    auth.delete_principal("service/shop").await.unwrap();
    assert_eq!(reason(shop.secrets().get("shop/a").await), "UNAUTHENTICATED");
    assert_eq!(reason(auth.delete_principal("service/shop").await), "NOT_FOUND");

    auth.put_principal(principal("service/shop", "spiffe://test/service/other")).await.unwrap();
    assert_eq!(
        reason(shop.secrets().get("shop/a").await),
        "UNAUTHENTICATED",
        "the old certificate is nobody's"
    );
    let other = vault.client(&vault.pki().client("spiffe://test/service/other"));
    assert_eq!(get(&other, "shop/a").await, "x");
}

#[tokio::test]
async fn a_certificate_identity_has_one_owner() {
    let vault = TestVault::start().await;
    let auth = vault.operator().auth();
    let spiffe = "spiffe://test/service/shop";
    let stored = auth.put_principal(principal("service/shop", spiffe)).await.unwrap();
    assert_eq!(
        reason(auth.put_principal(principal("service/thief", spiffe)).await),
        "CERTIFICATE_IDENTITY_TAKEN"
    );
    assert_eq!(reason(auth.principal("service/thief").await), "NOT_FOUND");
    let race = (0..6).map(|number| {
        let auth = auth.clone();
        let name = format!("service/racer-{number}");
        async move { auth.put_principal(principal(&name, "spiffe://test/race")).await }
    });
    let won = futures::future::join_all(race).await.into_iter().filter(Result::is_ok).count();
    assert_eq!(won, 1);

    let freed = v1::Principal { certificates: Vec::new(), ..stored.clone() };
    auth.put_principal(freed).await.unwrap();
    auth.put_principal(principal("service/heir", spiffe)).await.unwrap();
    assert_eq!(reason(auth.put_principal(stored).await), "ETAG_MISMATCH");
    let who = vault.client(&vault.pki().client(spiffe)).auth().who_am_i().await.unwrap();
    assert_eq!((who.principal.as_str(), who.method.as_str()), ("service/heir", "certificate"));
}

#[tokio::test]
async fn groups_carry_rights_and_lists_are_complete() {
    let vault = TestVault::start().await;
    let auth = vault.operator().auth();
    put(&vault.operator(), "team/a", "x").await;
    vault
        .policy("team", "permit (principal in Keystead::Group::\"team\", action == Keystead::Action::\"secrets:read\", resource in Keystead::Folder::\"team\");")
        .await;
    let member = vault.service("member").await;
    assert_eq!(reason(member.secrets().get("team/a").await), "DENIED");
    let record = auth.principal("service/member").await.unwrap();
    auth.put_principal(v1::Principal { groups: vec!["team".to_owned()], ..record }).await.unwrap();
    assert_eq!(get(&member, "team/a").await, "x");
    assert_eq!(member.auth().who_am_i().await.unwrap().groups, ["team"]);
    assert_eq!(reason(member.auth().principals().collect().await), "DENIED");
    for number in 0..5 {
        vault.register_service(&format!("s-{number}")).await;
    }
    let mut names: Vec<_> =
        auth.principals().collect().await.unwrap().into_iter().map(|principal| principal.name).collect();
    names.sort();
    let expected = [
        "operator/admin",
        "service/member",
        "service/s-0",
        "service/s-1",
        "service/s-2",
        "service/s-3",
        "service/s-4",
    ];
    assert_eq!(names, expected);
}

#[tokio::test]
async fn a_group_is_changed_only_by_its_members_and_by_who_writes_its_policy() {
    let vault = TestVault::start().await;
    let auth = vault.operator().auth();
    let permit = |action: &str, resource: &str| {
        format!(
            "permit (principal == Keystead::Service::\"registrar\", action == Keystead::Action::\"{action}\", {resource});"
        )
    };
    vault.policy("registrar-writes", &permit("principals:write", "resource")).await;
    vault.policy("registrar-deletes", &permit("principals:delete", "resource")).await;
    let registrar = vault.service("registrar").await.auth();
    let plain = registrar.put_principal(principal("service/till", "spiffe://test/till")).await.unwrap();
    let within = |record: &v1::Principal, groups: &[&str]| v1::Principal {
        groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        ..record.clone()
    };
    let beyond = "GROUP_BEYOND_CALLER";
    assert_eq!(reason(registrar.put_principal(within(&plain, &["team"])).await), beyond, "given away");
    let member = auth.put_principal(within(&plain, &["team"])).await.unwrap();
    assert_eq!(reason(registrar.put_principal(within(&member, &[])).await), beyond, "taken out");
    let stolen = v1::Principal { certificates: vec![spiffe_matcher("spiffe://test/mine")], ..member.clone() };
    assert_eq!(reason(registrar.put_principal(stolen).await), beyond, "taken over");
    assert_eq!(reason(registrar.delete_principal("service/till").await), beyond, "deleted");

    let policy = "resource == Keystead::Policy::\"team\"";
    vault.policy("registrar-team", &permit("policies:write", policy)).await;
    let freed = registrar.put_principal(within(&member, &[])).await.unwrap();
    let member = registrar.put_principal(within(&freed, &["team"])).await.unwrap();
    assert_eq!(reason(registrar.put_principal(within(&member, &["team", "admins"])).await), beyond);
    registrar.delete_principal("service/till").await.unwrap();

    vault.operator().policies().delete("registrar-team").await.unwrap();
    let own = auth.principal("service/registrar").await.unwrap();
    auth.put_principal(within(&own, &["team"])).await.unwrap();
    registrar
        .put_principal(within(&principal("service/till", "spiffe://test/till"), &["team"]))
        .await
        .unwrap();
}

#[tokio::test]
async fn names_that_nobody_may_have_are_refused() {
    let vault = TestVault::start().await;
    let auth = vault.operator().auth();
    let names = [
        "",
        "shop",
        "service/",
        "service/Shop",
        "service/a/b",
        "system/sealer",
        "root/a",
        "service/root",
        "service/ä",
        "service/-a",
    ];
    for name in names {
        let answer = auth.put_principal(principal(name, "spiffe://test/x")).await;
        assert!(fields(answer)[0].contains("name"), "{name}");
    }
    for spiffe in
        ["", "http://test/x", "spiffe://", "spiffe://Test/x", "spiffe://test/a/../b", "spiffe://test/*"]
    {
        assert_eq!(
            reason(auth.put_principal(principal("service/x", spiffe)).await),
            "INVALID_ARGUMENT",
            "{spiffe}"
        );
    }
    let nine = (0..9).map(|number| spiffe_matcher(&format!("spiffe://test/{number}"))).collect();
    let many = v1::Principal { certificates: nine, ..principal("service/x", "spiffe://test/x") };
    assert_eq!(reason(auth.put_principal(many).await), "INVALID_ARGUMENT");
    assert_eq!(auth.principals().collect().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_reserved_name_that_is_looked_for_is_not_found() {
    let vault = TestVault::start().await;
    let auth = vault.operator().auth();
    for name in ["service/none", "operator/root", "operator/bootstrap"] {
        assert_eq!(reason(auth.principal(name).await), "NOT_FOUND", "{name}");
        assert_eq!(reason(auth.delete_principal(name).await), "NOT_FOUND", "{name}");
        assert!(
            fields(auth.put_principal(principal(name, "spiffe://test/x")).await)[0].contains("name"),
            "{name}"
        );
    }
    let shop = vault.service("shop").await;
    assert_eq!(reason(shop.auth().principal("service/none").await), "DENIED");
}

#[tokio::test]
async fn nobody_shuts_themself_out() {
    let vault = TestVault::start().await;
    let auth = vault.operator().auth();
    let own = auth.principal("operator/admin").await.unwrap();
    let without = |change: fn(&mut v1::Principal)| {
        let mut record = own.clone();
        change(&mut record);
        auth.put_principal(record)
    };
    assert_eq!(reason(without(|record| record.groups.clear()).await), "WOULD_LOCK_OUT");
    assert_eq!(reason(without(|record| record.disabled = true).await), "WOULD_LOCK_OUT");
    let other = |record: &mut v1::Principal| {
        record.certificates = vec![spiffe_matcher("spiffe://test/operator/other")];
    };
    assert_eq!(reason(without(other).await), "WOULD_LOCK_OUT");
    assert_eq!(reason(auth.delete_principal("operator/admin").await), "WOULD_LOCK_OUT");
    let more = |record: &mut v1::Principal| {
        record.certificates.push(spiffe_matcher("spiffe://test/operator/other"));
    };
    without(more).await.unwrap();
    auth.who_am_i().await.unwrap();
}
