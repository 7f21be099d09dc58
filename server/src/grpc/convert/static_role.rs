//! Static roles. Invariant: a password is moved from the wire into a type that is wiped, and none goes out here.

use keystead_core::credentials::static_roles::{PutStaticRole, StaticRole};
use keystead_crypto::secret::SecretBytes;
use keystead_domain::static_role::{Rotation, Schedule, StaticLogins, Step};
use keystead_proto::v1;

use super::role::{on_excess, on_excess_out};
use super::{Converted, etag, invalid, name, pg_name, span, timestamp, ttl};

/// A static role that is to be defined.
pub fn put(request: v1::PutStaticRoleRequest) -> Converted<PutStaticRole> {
    let given = |password: Vec<u8>| Some(SecretBytes::new(password)).filter(|password| !password.is_empty());
    let (first, second) = (given(request.first_password), given(request.second_password));
    let role = request.role.ok_or_else(|| invalid("role", "is missing"))?;
    let Some(v1::static_role::Logins::Postgres(logins)) = role.logins else {
        return Err(invalid("role.logins", "set postgres"));
    };
    Ok(PutStaticRole {
        name: name("role.name", &role.name)?,
        target: name("role.target", &role.target)?,
        logins: StaticLogins::Postgres {
            first: pg_name("role.postgres.first", "", &logins.first)?,
            second: match logins.second.as_str() {
                "" => None,
                second => Some(pg_name("role.postgres.second", "", second)?),
            },
        },
        first,
        second,
        period: ttl("role.rotation_period", role.rotation_period)?,
        on_excess: on_excess(role.on_excess)?,
        etag: etag(role.etag),
    })
}

/// A static role to the wire.
pub fn out(role: &StaticRole) -> v1::StaticRole {
    let record = &role.record;
    let StaticLogins::Postgres { first, second } = &record.logins;
    let logins = v1::PostgresStaticLogins {
        first: first.as_str().to_owned(),
        second: second.as_ref().map(|second| second.as_str().to_owned()).unwrap_or_default(),
    };
    v1::StaticRole {
        name: record.name.to_string(),
        target: record.target.to_string(),
        logins: Some(v1::static_role::Logins::Postgres(logins)),
        rotation_period: record.period.map(span),
        on_excess: on_excess_out(record.on_excess).into(),
        create_time: Some(timestamp(record.created)),
        update_time: Some(timestamp(record.changed)),
        rotation: Some(rotation(&record.logins, &record.schedule)),
        etag: role.etag.clone(),
    }
}

fn rotation(logins: &StaticLogins, schedule: &Schedule) -> v1::StaticRotation {
    let under_way = schedule.under_way.as_ref();
    let step = match under_way.map(|rotation| rotation.step) {
        None => v1::StaticRotationStep::Unspecified,
        Some(Step::Created) => v1::StaticRotationStep::Created,
        Some(Step::Set) => v1::StaticRotationStep::Set,
        Some(Step::Tested) => v1::StaticRotationStep::Tested,
    };
    let failed = |rotation: &&Rotation| rotation.failures > 0;
    v1::StaticRotation {
        login: logins.name(schedule.current).unwrap_or_default().to_owned(),
        version: schedule.handed_out_version(),
        rotate_time: schedule.rotated.map(timestamp),
        next_rotate_time: schedule.next.map(timestamp),
        step: step.into(),
        failures: under_way.map_or(0, |rotation| rotation.failures),
        next_try_time: under_way.filter(failed).map(|rotation| timestamp(rotation.next_try)),
        last_error: schedule.last_error.clone().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(change: impl FnOnce(&mut v1::StaticRole)) -> v1::PutStaticRoleRequest {
        let logins = v1::PostgresStaticLogins { first: "a".to_owned(), second: "b".to_owned() };
        let mut role = v1::StaticRole {
            name: "ledger".to_owned(),
            target: "shop-db".to_owned(),
            logins: Some(v1::static_role::Logins::Postgres(logins)),
            rotation_period: Some(prost_types::Duration { seconds: 3_600, nanos: 0 }),
            ..Default::default()
        };
        change(&mut role);
        let password = b"secret".to_vec();
        v1::PutStaticRoleRequest { role: Some(role), first_password: password, second_password: Vec::new() }
    }

    #[test]
    fn what_is_asked_for_is_what_is_defined() {
        let op = put(request(|_| ())).unwrap();
        assert_eq!((op.name.as_str(), op.target.as_str()), ("ledger", "shop-db"));
        assert!(op.logins.alternate());
        assert_eq!(op.first.unwrap().expose(), b"secret");
        assert!(op.second.is_none(), "nothing is none");
        assert_eq!(op.period.unwrap().as_secs(), 3_600);
    }

    #[test]
    fn what_breaks_a_rule_is_named_with_its_place() {
        type Change = fn(&mut v1::StaticRole);
        let cases: [(Change, &str); 5] = [
            (|role| role.name = "No".to_owned(), "role.name"),
            (|role| role.target = String::new(), "role.target"),
            (|role| role.logins = None, "role.logins"),
            (|role| role.on_excess = 99, "role.on_excess"),
            (
                |role| role.rotation_period = Some(prost_types::Duration { seconds: 60, nanos: 5 }),
                "role.rotation_period",
            ),
        ];
        for (change, place) in cases {
            let refused = put(request(change)).map(drop).unwrap_err().to_string();
            assert!(refused.starts_with(place), "{refused}");
        }
        let mut without = request(|_| ());
        without.role = None;
        assert!(put(without).is_err());
    }
}
