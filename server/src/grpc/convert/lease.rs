//! Leases, and what their holders log in with.

use keystead_core::credentials::issue::IssueCredential;
use keystead_core::engine::{Credential, Field};
use keystead_core::leases::{ClockState, Selector};
use keystead_domain::id::RecordId;
use keystead_domain::lease::{Closed, Ending, LeaseClass, LeaseRecord, LeaseState, Why};
use keystead_domain::principal::PrincipalName;
use keystead_domain::time::Ttl;
use keystead_proto::v1;

use super::{Converted, invalid, name, request_id, span, timestamp, ttl};

/// A name has no more bytes.
const MAX_PREFIX: usize = 63;

/// A lease's id.
pub fn id(text: &str) -> Converted<RecordId> {
    text.parse().map_err(|_| invalid("id", "a lease's id has 32 lower-case hexadecimal digits"))
}

/// A login that is asked for.
pub fn issue(request: &v1::IssueCredentialRequest) -> Converted<IssueCredential> {
    use v1::issue_credential_request::Period;
    let period = match request.period {
        None => None,
        Some(Period::Ttl(asked)) => ttl("ttl", Some(asked))?,
        Some(Period::Class(class)) => {
            let class = match v1::LeaseClass::try_from(class) {
                Ok(v1::LeaseClass::Fast) => LeaseClass::Fast,
                Ok(v1::LeaseClass::Medium) => LeaseClass::Medium,
                Ok(v1::LeaseClass::Slow) => LeaseClass::Slow,
                Ok(v1::LeaseClass::Unspecified) | Err(_) => {
                    return Err(invalid("class", "a class is fast, medium or slow"));
                }
            };
            Some(Ttl::from_secs(class.as_secs()).map_err(|error| invalid("class", error))?)
        }
    };
    Ok(IssueCredential {
        role: name("role", &request.role)?,
        ttl: period,
        request_id: request_id(&request.request_id)?,
    })
}

/// Which leases are meant.
pub fn selector(selector: Option<v1::LeaseSelector>) -> Converted<Selector> {
    use v1::lease_selector::Which;
    let which = selector.and_then(|selector| selector.which);
    Ok(match which.ok_or_else(|| invalid("of", "say which leases: set one of its fields"))? {
        Which::Own(v1::OwnLeases {}) => Selector::Mine,
        Which::Principal(text) => Selector::Principal(
            PrincipalName::parse_sought(&text).map_err(|error| invalid("of.principal", error))?,
        ),
        Which::Role(text) => Selector::Role(name("of.role", &text)?),
        Which::RolePrefix(prefix) => {
            let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            // Nothing would be all roles: more than anybody means who forgot to say which.
            if prefix.is_empty() || prefix.len() > MAX_PREFIX || !prefix.bytes().all(plain) {
                let rule = "1 to 63 characters as names of roles have them: a-z, 0-9 and -";
                return Err(invalid("of.role_prefix", rule));
            }
            Selector::RolePrefix(prefix)
        }
        Which::Target(text) => Selector::Target(name("of.target", &text)?),
        Which::Session(v1::SessionLeases {}) => Selector::Session,
        Which::Due(v1::DueLeases {}) => Selector::Due,
    })
}

/// A lease to the wire.
pub fn out(lease: &LeaseRecord) -> v1::Lease {
    v1::Lease {
        id: lease.id.to_string(),
        owner: lease.owner.to_string(),
        role: lease.role.to_string(),
        target: lease.target.to_string(),
        state: match lease.state {
            LeaseState::Issuing => v1::LeaseState::Issuing,
            LeaseState::Active => v1::LeaseState::Active,
            LeaseState::Revoking => v1::LeaseState::Revoking,
            LeaseState::Revoked => v1::LeaseState::Revoked,
        }
        .into(),
        login: lease.handle.name.clone(),
        create_time: Some(timestamp(lease.issued)),
        period: Some(span(lease.period)),
        expire_time: Some(timestamp(lease.expires)),
        max_expire_time: Some(timestamp(lease.max_expires)),
        renewals: lease.renewals,
        reissues: lease.reissues,
        ending: lease.ending.as_ref().map(ending),
    }
}

fn ending(ending: &Ending) -> v1::LeaseEnding {
    let forced_by = match &ending.closed {
        Some(Closed::Forced { by, .. }) => by.to_string(),
        Some(Closed::Confirmed { .. }) | None => String::new(),
    };
    v1::LeaseEnding {
        reason: match ending.why {
            Why::Expired => v1::LeaseEndReason::Expired,
            Why::Asked => v1::LeaseEndReason::Asked,
            Why::NotIssued => v1::LeaseEndReason::NotIssued,
            Why::SessionEnded => v1::LeaseEndReason::SessionEnded,
            Why::OwnerGone => v1::LeaseEndReason::OwnerGone,
            Why::LoginGone => v1::LeaseEndReason::LoginGone,
        }
        .into(),
        start_time: Some(timestamp(ending.since)),
        failures: ending.failures,
        next_try_time: ending.closed.is_none().then(|| timestamp(ending.next_try)),
        last_error: ending.last_error.clone().unwrap_or_default(),
        close_time: ending.closed.as_ref().map(|closed| timestamp(closed.at())),
        forced_by,
    }
}

/// What a holder logs in with, to the wire: the last moment of its secret here. Nothing if the engine left something out.
pub fn credential(credential: Credential) -> Option<v1::Credential> {
    let mut login = v1::PostgresCredential::default();
    let mut missing: Vec<&str> = vec!["host", "port", "database", "username", "password", "ca_pem"];
    for (field, value) in credential.0 {
        missing.retain(|name| *name != field);
        match (field, value) {
            ("password", Field::Secret(secret)) => login.password = secret.into_exposed(),
            ("host", Field::Plain(text)) => login.host = text,
            ("port", Field::Plain(text)) => login.port = text.parse().ok()?,
            ("database", Field::Plain(text)) => login.database = text,
            ("username", Field::Plain(text)) => login.username = text,
            ("ca_pem", Field::Plain(text)) => login.ca_pem = text,
            ("server_name", Field::Plain(text)) => login.server_name = text,
            _ => return None,
        }
    }
    missing.is_empty().then_some(v1::Credential { kind: Some(v1::credential::Kind::Postgres(login)) })
}

/// What the clocks say of each other.
pub fn clock(state: ClockState) -> v1::AcceptClockResponse {
    let difference = |millis: u64| {
        Some(prost_types::Duration { seconds: i64::try_from(millis / 1000).unwrap_or(i64::MAX), nanos: 0 })
    };
    let (state, difference) = match state {
        ClockState::Agreed => (v1::LeaseClockState::Agreed, None),
        ClockState::Doubted { ahead } => (v1::LeaseClockState::Doubted, difference(ahead)),
        ClockState::Stepped { by } => (v1::LeaseClockState::Stepped, difference(by)),
    };
    v1::AcceptClockResponse { state: state.into(), difference }
}

#[cfg(test)]
mod tests {
    use keystead_crypto::secret::SecretBytes;
    use v1::lease_selector::Which;

    use super::*;

    fn fields() -> Vec<(&'static str, Field)> {
        let plain = |text: &str| Field::Plain(text.to_owned());
        vec![
            ("host", plain("db")),
            ("port", plain("5433")),
            ("database", plain("shop")),
            ("username", plain("ks_1")),
            ("password", Field::Secret(SecretBytes::new(b"canary".to_vec()))),
            ("ca_pem", plain("PEM")),
        ]
    }

    #[test]
    fn a_credential_is_whole_or_none() {
        let whole = credential(Credential(fields())).unwrap();
        let Some(v1::credential::Kind::Postgres(login)) = &whole.kind else { panic!("{whole:?}") };
        assert_eq!((login.port, login.password.as_slice()), (5433, b"canary".as_slice()));
        assert!(!format!("{whole:?}").contains("canary"));
        for field in 0..fields().len() {
            let mut less = fields();
            less.remove(field);
            assert!(credential(Credential(less)).is_none(), "{field}");
        }
        let mut open = fields();
        open[4].1 = Field::Plain("a password that is not marked as one".to_owned());
        assert!(credential(Credential(open)).is_none());
    }

    #[test]
    fn an_issue_takes_a_time_or_a_class() {
        use v1::issue_credential_request::Period;
        let issued = |period| {
            let request = v1::IssueCredentialRequest { role: "shop".into(), period, ..Default::default() };
            issue(&request).map(|op| op.ttl.map(Ttl::as_secs))
        };
        assert_eq!(issued(None).unwrap(), None);
        assert_eq!(issued(Some(Period::Class(v1::LeaseClass::Medium.into()))).unwrap(), Some(5_400));
        let seconds = |seconds, nanos| Some(Period::Ttl(prost_types::Duration { seconds, nanos }));
        assert_eq!(issued(seconds(900, 0)).unwrap(), Some(900));
        for wrong in
            [seconds(0, 0), seconds(-5, 0), seconds(5, 1), Some(Period::Class(0)), Some(Period::Class(9))]
        {
            assert!(issued(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_selector_says_which() {
        let of = |which| selector(Some(v1::LeaseSelector { which }));
        assert_eq!(of(Some(Which::Own(v1::OwnLeases {}))).unwrap(), Selector::Mine);
        assert_eq!(
            of(Some(Which::RolePrefix("shop-".into()))).unwrap(),
            Selector::RolePrefix("shop-".into())
        );
        for wrong in [
            None,
            Some(Which::Principal("shop".into())),
            Some(Which::Role(String::new())),
            Some(Which::RolePrefix(String::new())),
            Some(Which::RolePrefix("a*".into())),
        ] {
            assert!(of(wrong.clone()).is_err(), "{wrong:?}");
        }
        assert!(selector(None).is_err());
    }
}
