//! probe
use keystead_domain::*;
use std::time::Instant;
fn main() {
    for n in [1usize, 10, 100, 1000] {
        let docs: Vec<_> = (0..n).map(|i| (PolicyName::parse(&format!("p-{i}")).unwrap(), format!(r#"permit (principal == Keystead::Service::"s{i}", action in [Keystead::Action::"secrets:read", Keystead::Action::"secrets:list"], resource in Keystead::Folder::"app{i}");"#))).chain([(PolicyName::parse("ctx").unwrap(), r#"forbid (principal, action == Keystead::Action::"secrets:write", resource) unless { context has peer && context.peer.isInRange(ip("10.0.0.0/8")) };
        permit (principal in Keystead::Group::"ops", action in Keystead::Action::"write", resource);"#.into())]).collect();
        let t = Instant::now();
        let p = Policies::compile(docs).unwrap();
        println!("compile {n}: {:?}", t.elapsed());
        let ctx = AccessContext {
            method: Method::Certificate,
            now: UnixMillis(1_795_343_400_000),
            peer: Some("10.1.2.3".parse().unwrap()),
            on_behalf_of: None,
            mfa_age_secs: None,
        };
        let who = PrincipalName::parse("service/s0").unwrap();
        let groups = [GroupName::parse("ops").unwrap()];
        let paths: Vec<_> =
            (0..4000).map(|i| Resource::parse(&format!("secret/app0/db/x{i}")).unwrap()).collect();
        let run = |name: &str, action, range: std::ops::Range<usize>, rounds: usize| {
            let t = Instant::now();
            let mut c = 0;
            for _ in 0..rounds {
                for r in &paths[range.clone()] {
                    let d = p.decide(&AccessRequest {
                        principal: &who,
                        groups: &groups,
                        action,
                        resource: r,
                        context: &ctx,
                    });
                    assert_eq!(d.verdict, Verdict::Allow, "{d:?}");
                    c += 1;
                }
            }
            println!("  {name}: {:?} each", t.elapsed() / c);
        };
        run("uncached no context", Action::SecretsRead, 0..4000, 1);
        run("cached", Action::SecretsRead, 3900..3901, 100_000);
        run("cached 100 paths", Action::SecretsRead, 3900..4000, 1_000);
        run("with context", Action::SecretsWrite, 0..100, 100);
    }
}
