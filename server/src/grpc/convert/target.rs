//! Targets and what is learnt about them.

use std::num::NonZeroU16;

use keystead_core::credentials::targets::{PutTarget, Target, TargetSetup};
use keystead_core::engine::{AdminLogin, Finding, Probe, Setup};
use keystead_crypto::secret::SecretBytes;
use keystead_domain::rights::Right;
use keystead_domain::target::{
    Host, HostError, MAX_CA_BYTES, MAX_CONNECTIONS, PostgresSettings, TargetRecord, TargetSettings,
};
use keystead_proto::v1;

use super::{Converted, etag, invalid, name, pg_name, role, span, timestamp, ttl};

/// PostgreSQL's own.
const PORT: NonZeroU16 = match NonZeroU16::new(5432) {
    Some(port) => port,
    None => NonZeroU16::MIN,
};
/// Connections that a target has if nobody says.
const CONNECTIONS: u16 = 4;
/// Findings that can be accepted by name, and bytes of each.
const MAX_ACCEPTED: usize = 256;
const MAX_DIGEST: usize = 64;
/// Roles whose rights a set-up can grant.
const MAX_SETUP_ROLES: usize = 64;

/// A target that is to be stored.
pub fn put(request: v1::PutTargetRequest) -> Converted<PutTarget> {
    let password = SecretBytes::new(request.admin_password);
    let target = request.target.ok_or_else(|| invalid("target", "is missing"))?;
    let digest = |digest: &String| {
        !digest.is_empty()
            && digest.len() <= MAX_DIGEST
            && digest.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    if target.accepted.len() > MAX_ACCEPTED || !target.accepted.iter().all(digest) {
        return Err(invalid(
            "target.accepted",
            format!("at most {MAX_ACCEPTED} digests, as `CheckTarget` and refusals name them"),
        ));
    }
    Ok(PutTarget {
        name: name("target.name", &target.name)?,
        settings: settings(target.settings)?,
        login: (!password.is_empty()).then_some(AdminLogin { secret: password }),
        max_ttl: ttl("target.max_ttl", target.max_ttl)?
            .ok_or_else(|| invalid("target.max_ttl", "is missing"))?,
        accept: target.accepted,
        etag: etag(target.etag),
    })
}

fn settings(settings: Option<v1::target::Settings>) -> Converted<TargetSettings> {
    let v1::target::Settings::Postgres(settings) =
        settings.ok_or_else(|| invalid("target.settings", "set postgres"))?;
    let host = |field, text: &str| Host::parse(text).map_err(|HostError| rule(field, HostError));
    let port = match settings.port {
        0 => Some(PORT),
        port => u16::try_from(port).ok().and_then(NonZeroU16::new),
    };
    let connections = match settings.connections {
        0 => Some(CONNECTIONS),
        asked => u16::try_from(asked).ok().filter(|asked| *asked <= MAX_CONNECTIONS),
    };
    if settings.ca_pem.is_empty() || settings.ca_pem.len() > MAX_CA_BYTES {
        let rule = format!("1 to {MAX_CA_BYTES} bytes of PEM: the database's certificate must chain to it");
        return Err(invalid("target.postgres.ca_pem", rule));
    }
    Ok(TargetSettings::Postgres(PostgresSettings {
        host: host("target.postgres.host", &settings.host)?,
        port: port.ok_or_else(|| invalid("target.postgres.port", "a port is 1 to 65535"))?,
        database: pg_name("target.postgres.database", "", &settings.database)?,
        ca_pem: settings.ca_pem,
        server_name: match settings.server_name.as_str() {
            "" => None,
            name => Some(host("target.postgres.server_name", name)?),
        },
        admin: pg_name("target.postgres.admin", "", &settings.admin)?,
        connections: connections.ok_or_else(|| {
            invalid("target.postgres.connections", format!("1 to {MAX_CONNECTIONS} connections"))
        })?,
    }))
}

/// What an administrator is to run.
pub fn setup(request: v1::GetTargetSetupRequest) -> Converted<TargetSetup> {
    let v1::get_target_setup_request::Kind::Postgres(setup) =
        request.kind.ok_or_else(|| invalid("kind", "set postgres"))?;
    if setup.roles.len() > MAX_SETUP_ROLES {
        return Err(invalid("postgres.roles", format!("at most {MAX_SETUP_ROLES} roles")));
    }
    Ok(TargetSetup {
        name: name("name", &request.name)?,
        setup: Setup::Postgres {
            database: pg_name("postgres.database", "", &setup.database)?,
            admin: pg_name("postgres.admin", "", &setup.admin)?,
            roles: setup.roles.into_iter().map(role::postgres).collect::<Converted<_>>()?,
        },
    })
}

/// The domain names its field by itself; here the request's is named.
fn rule(field: &'static str, error: HostError) -> keystead_core::error::VaultError {
    let text = error.to_string();
    invalid(field, text.strip_prefix("host: ").unwrap_or(&text))
}

/// A target to the wire, without its admin login.
pub fn out(record: &TargetRecord, etag: &str) -> v1::Target {
    let TargetSettings::Postgres(settings) = &record.settings;
    v1::Target {
        name: record.name.to_string(),
        settings: Some(v1::target::Settings::Postgres(v1::PostgresTarget {
            host: settings.host.as_str().to_owned(),
            port: settings.port.get().into(),
            database: settings.database.as_str().to_owned(),
            ca_pem: settings.ca_pem.clone(),
            server_name: settings
                .server_name
                .as_ref()
                .map(|name| name.as_str().to_owned())
                .unwrap_or_default(),
            admin: settings.admin.as_str().to_owned(),
            connections: settings.connections.into(),
        })),
        max_ttl: Some(span(record.max_ttl)),
        accepted: record.accepted.clone(),
        create_time: Some(timestamp(record.created)),
        rotate_time: record.rotated.map(timestamp),
        etag: etag.to_owned(),
    }
}

/// A target, and what was learnt by using it.
pub fn probed(target: &Target) -> (v1::Target, Option<v1::TargetProbe>) {
    let probe = target.probe.as_ref().map(|probe| probe_out(probe, &target.record.accepted));
    (out(&target.record, &target.etag), probe)
}

fn probe_out(probe: &Probe, accepted: &[String]) -> v1::TargetProbe {
    let finding = |finding: &Finding| v1::TargetFinding {
        digest: finding.digest.clone(),
        right: Some(right(&finding.right)),
        closed_by: finding.closed_by.clone(),
        accepted: accepted.contains(&finding.digest),
    };
    v1::TargetProbe {
        version: probe.version.clone(),
        baseline: probe.baseline.iter().map(finding).collect(),
        admin_excess: probe.admin_excess.iter().map(right).collect(),
    }
}

/// A right to the wire.
pub fn right(right: &Right) -> v1::Right {
    v1::Right {
        object: right.object.clone(),
        privilege: right.privilege.clone(),
        through: right.through.clone().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(change: impl FnOnce(&mut v1::Target, &mut v1::PostgresTarget)) -> v1::PutTargetRequest {
        let mut settings = v1::PostgresTarget {
            host: "db.internal".into(),
            database: "shop".into(),
            ca_pem: "PEM".into(),
            admin: "keystead".into(),
            ..Default::default()
        };
        let mut target = v1::Target {
            name: "shop-db".into(),
            max_ttl: Some(prost_types::Duration { seconds: 3600, nanos: 0 }),
            ..Default::default()
        };
        change(&mut target, &mut settings);
        target.settings = Some(v1::target::Settings::Postgres(settings));
        v1::PutTargetRequest { target: Some(target), admin_password: b"canary".to_vec() }
    }

    #[test]
    fn what_is_not_said_is_what_postgresql_has() {
        let put = put(request(|_, _| ())).unwrap();
        let TargetSettings::Postgres(settings) = &put.settings;
        assert_eq!((settings.port, settings.connections, &settings.server_name), (PORT, CONNECTIONS, &None));
        assert_eq!(put.login.unwrap().secret.expose(), b"canary");
        assert_eq!(put.etag, None);
        let kept = super::put(v1::PutTargetRequest { admin_password: Vec::new(), ..request(|_, _| ()) });
        assert!(kept.unwrap().login.is_none());
    }

    #[test]
    fn a_field_that_breaks_a_rule_is_named() {
        type Change = fn(&mut v1::Target, &mut v1::PostgresTarget);
        let rows: [(&str, Change); 12] = [
            ("target.name", |target, _| target.name = "Shop".into()),
            ("target.max_ttl", |target, _| target.max_ttl = None),
            ("target.max_ttl", |target, _| {
                target.max_ttl = Some(prost_types::Duration { seconds: 0, nanos: 5 })
            }),
            ("target.accepted", |target, _| target.accepted = vec!["not hex".into()]),
            ("target.accepted", |target, _| target.accepted = vec!["ab".into(); 257]),
            ("target.postgres.host", |_, at| at.host = "db:5432".into()),
            ("target.postgres.port", |_, at| at.port = 65_536),
            ("target.postgres.database", |_, at| at.database = String::new()),
            ("target.postgres.ca_pem", |_, at| at.ca_pem = String::new()),
            ("target.postgres.server_name", |_, at| at.server_name = "a b".into()),
            ("target.postgres.admin", |_, at| at.admin = "a\0".into()),
            ("target.postgres.connections", |_, at| at.connections = 65),
        ];
        for (field, change) in rows {
            let error = put(request(change)).map(|_| ()).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{field}: ")), "{field}: {error}");
            assert!(!error.contains("canary"), "{error}");
        }
    }

    #[test]
    fn a_target_comes_back_as_it_went_without_its_login() {
        let put = put(request(|target, _| target.accepted = vec!["9f2c".into()])).unwrap();
        let record = TargetRecord {
            id: keystead_domain::id::RecordId([1; 16]),
            name: put.name,
            settings: put.settings,
            max_ttl: put.max_ttl,
            accepted: put.accept,
            created: keystead_domain::time::UnixMillis(1000),
            rotated: None,
        };
        let out = out(&record, "e1");
        assert_eq!(
            (out.name.as_str(), out.etag.as_str(), out.max_ttl.unwrap().seconds),
            ("shop-db", "e1", 3600)
        );
        assert!(!format!("{out:?}").contains("canary"));
        let back =
            super::put(v1::PutTargetRequest { target: Some(out), admin_password: Vec::new() }).unwrap();
        assert_eq!((back.settings, back.accept), (record.settings, record.accepted));
        assert_eq!(back.etag.as_deref(), Some("e1"));
    }
}
