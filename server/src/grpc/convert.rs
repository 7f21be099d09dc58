//! The only place where wire and domain meet. Invariant: what leaves here towards the core is valid; secret bytes are moved,
//! not copied.

pub mod lease;
pub mod role;
pub mod static_role;
pub mod target;

use keystead_core::error::VaultError;
use keystead_core::keys::MasterKey;
use keystead_core::secrets::{Listed, Payload, Secret};
use keystead_crypto::secret::SecretBytes;
use keystead_domain::CertificateMatcher;
use keystead_domain::id::{CeremonyId, RequestId};
use keystead_domain::name::{GroupName, Name, PolicyName};
use keystead_domain::path::{FolderPath, SecretPath};
use keystead_domain::principal::PrincipalName;
use keystead_domain::rights::postgres::PgName;
use keystead_domain::secret_value::FieldName;
use keystead_domain::secret_version::{VersionMeta, VersionState};
use keystead_domain::time::{Ttl, UnixMillis};
use keystead_proto::v1;

/// Versions named in one call at most: their removal fits one batch.
pub const MAX_VERSIONS_NAMED: usize = 20;
const PAGE_DEFAULT: usize = 100;
const PAGE_MAX: usize = 1000;

type Converted<T> = Result<T, VaultError>;

/// An error for a field that breaks a rule.
pub fn invalid(field: &'static str, rule: impl ToString) -> VaultError {
    let rule = rule.to_string();
    // Some rules begin with what they are about, which may be the field's own name.
    let about = rule.strip_prefix(field).and_then(|rest| rest.strip_prefix(": "));
    VaultError::Invalid { field, rule: about.map_or_else(|| rule.clone(), str::to_owned) }
}

/// A secret's path.
pub fn path(text: &str) -> Converted<SecretPath> {
    SecretPath::parse(text).map_err(|error| invalid("path", error))
}

/// A folder's path; empty is the root.
pub fn folder(text: &str) -> Converted<FolderPath> {
    FolderPath::parse(text).map_err(|error| invalid("folder", error))
}

/// The name of a target or a role.
pub fn name(field: &'static str, text: &str) -> Converted<Name> {
    Name::parse(text).map_err(|error| {
        let rule = error.to_string();
        invalid(field, rule.strip_prefix("name: ").unwrap_or(&rule))
    })
}

/// A PostgreSQL identifier; `place` says where in the field it stands.
pub fn pg_name(field: &'static str, place: &str, text: &str) -> Converted<PgName> {
    PgName::parse(text).map_err(|error| invalid(field, format!("{place}{error}")))
}

/// A span of whole seconds; not set is none.
pub fn ttl(field: &'static str, span: Option<prost_types::Duration>) -> Converted<Option<Ttl>> {
    let Some(span) = span else { return Ok(None) };
    let seconds = u64::try_from(span.seconds).ok().filter(|_| span.nanos == 0);
    let seconds = seconds.ok_or_else(|| invalid(field, "a span is of whole seconds, and not negative"))?;
    Ttl::from_secs(seconds).map(Some).map_err(|error| {
        let rule = error.to_string();
        invalid(field, rule.strip_prefix("ttl: ").unwrap_or(&rule))
    })
}

/// A span to the wire.
pub fn span(ttl: Ttl) -> prost_types::Duration {
    prost_types::Duration { seconds: i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX), nanos: 0 }
}

/// An etag; empty is none.
pub fn etag(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// A principal's name.
pub fn principal_name(text: &str) -> Converted<PrincipalName> {
    PrincipalName::parse(text).map_err(|error| invalid("name", error))
}

/// The name of a principal that may be there already: the bootstrap administrator too, who cannot be made by callers.
pub fn registered_name(text: &str) -> Converted<PrincipalName> {
    PrincipalName::parse_sought(text).map_err(|error| invalid("name", error))
}

/// A policy's name.
pub fn policy_name(text: &str) -> Converted<PolicyName> {
    PolicyName::parse(text).map_err(|error| invalid("name", error))
}

/// A group's name.
pub fn group(text: &str) -> Converted<GroupName> {
    GroupName::parse(text).map_err(|error| invalid("groups", error))
}

/// A request id; empty is none.
pub fn request_id(text: &str) -> Converted<Option<RequestId>> {
    if text.is_empty() {
        return Ok(None);
    }
    RequestId::parse(text).map(Some).map_err(|error| invalid("request_id", error))
}

/// A ceremony id; empty is none.
pub fn ceremony_id(text: &str) -> Converted<Option<CeremonyId>> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|error| invalid("ceremony_id", error))
}

/// A page size; 0 is 100.
pub fn page_size(asked: u32) -> Converted<usize> {
    match usize::try_from(asked) {
        Ok(0) => Ok(PAGE_DEFAULT),
        Ok(asked) if asked <= PAGE_MAX => Ok(asked),
        _ => Err(invalid("page_size", format!("at most {PAGE_MAX} entries a page, {asked} asked"))),
    }
}

/// Where a page goes on; empty is the beginning.
pub fn page_token(text: &str) -> Converted<Option<Vec<u8>>> {
    if text.is_empty() {
        return Ok(None);
    }
    let decoded = data_encoding::BASE64URL_NOPAD.decode(text.as_bytes());
    decoded.map(Some).map_err(|_| invalid("page_token", "not a token that a list answered"))
}

/// The token of the next page.
pub fn next_page(next: Option<Vec<u8>>) -> String {
    next.map(|key| data_encoding::BASE64URL_NOPAD.encode(&key)).unwrap_or_default()
}

/// Versions named in a call.
pub fn versions(named: Vec<u64>, may_be_empty: bool) -> Converted<Vec<u64>> {
    if named.is_empty() && !may_be_empty {
        return Err(invalid("versions", "name at least one version"));
    }
    if named.len() > MAX_VERSIONS_NAMED {
        return Err(invalid(
            "versions",
            format!("at most {MAX_VERSIONS_NAMED} versions a call, {} named", named.len()),
        ));
    }
    Ok(named)
}

/// A value from the wire.
pub fn payload(value: Option<v1::SecretValue>) -> Converted<Payload> {
    let missing = || invalid("value", "set either fields or data");
    match value.and_then(|value| value.value).ok_or_else(missing)? {
        v1::secret_value::Value::Data(bytes) => Payload::bytes(SecretBytes::new(bytes)),
        v1::secret_value::Value::Fields(fields) => {
            let mut named = Vec::with_capacity(fields.fields.len());
            for field in fields.fields {
                let value = SecretBytes::new(field.value);
                let name =
                    FieldName::parse(&field.name).map_err(|error| invalid("value.fields.name", error))?;
                named.push((name, value));
            }
            Payload::fields(named)
        }
    }
}

/// A secret to the wire: the last moment of its bytes here.
pub fn secret(secret: Secret) -> v1::GetSecretResponse {
    let value = match secret.payload {
        Payload::Bytes(bytes) => v1::secret_value::Value::Data(bytes.into_exposed()),
        Payload::Fields(fields) => v1::secret_value::Value::Fields(v1::SecretFields {
            fields: fields
                .into_iter()
                .map(|(name, value)| v1::SecretField {
                    name: name.as_str().to_owned(),
                    value: value.into_exposed(),
                })
                .collect(),
        }),
    };
    v1::GetSecretResponse {
        version: Some(version(&secret.meta)),
        value: Some(v1::SecretValue { value: Some(value) }),
    }
}

/// A version without its value.
pub fn version(meta: &VersionMeta) -> v1::SecretVersion {
    let (state, deleted, destroyed) = match meta.state {
        VersionState::Active => (v1::SecretVersionState::Active, None, None),
        VersionState::Deleted { at } => (v1::SecretVersionState::Deleted, Some(at), None),
        VersionState::Destroyed { at } => (v1::SecretVersionState::Destroyed, None, Some(at)),
    };
    v1::SecretVersion {
        version: meta.version,
        state: state.into(),
        create_time: Some(timestamp(meta.created)),
        created_by: meta.created_by.to_string(),
        delete_time: deleted.map(timestamp),
        destroy_time: destroyed.map(timestamp),
        size_bytes: meta.size,
    }
}

/// A key that opens copies in backups.
pub fn backup_key(key: MasterKey) -> v1::BackupKey {
    v1::BackupKey {
        way: key.way,
        master_version: key.version,
        since: Some(timestamp(key.since)),
        destroy_time: key.destroyed.map(timestamp),
    }
}

/// A child of a folder.
pub fn listed(entry: Listed) -> v1::SecretListEntry {
    v1::SecretListEntry { name: entry.name, is_secret: entry.is_secret, is_folder: entry.is_folder }
}

/// A certificate identity from the wire.
pub fn matcher(matcher: &v1::CertificateMatcher) -> Converted<CertificateMatcher> {
    use v1::certificate_matcher::San;
    match matcher.san.as_ref().ok_or_else(|| invalid("matcher", "set one of spiffe_uri, dns, email"))? {
        San::SpiffeUri(uri) => CertificateMatcher::spiffe(uri),
        San::Dns(name) => CertificateMatcher::dns(name),
        San::Email(address) => CertificateMatcher::email(address),
    }
    .map_err(|error| invalid("matcher", error))
}

/// A certificate identity to the wire.
pub fn matcher_out(matcher: &CertificateMatcher) -> v1::CertificateMatcher {
    use v1::certificate_matcher::San;
    let text = matcher.value().to_owned();
    let san = match matcher {
        CertificateMatcher::SpiffeUri(_) => San::SpiffeUri(text),
        CertificateMatcher::Dns(_) => San::Dns(text),
        CertificateMatcher::Email(_) => San::Email(text),
    };
    v1::CertificateMatcher { san: Some(san) }
}

/// A point in time to the wire.
pub fn timestamp(at: UnixMillis) -> prost_types::Timestamp {
    let nanos = (at.0 % 1000).saturating_mul(1_000_000);
    prost_types::Timestamp {
        seconds: i64::try_from(at.0 / 1000).unwrap_or(i64::MAX),
        nanos: i32::try_from(nanos).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_tokens_come_back_as_they_went_and_others_are_refused() {
        assert_eq!(page_token(&next_page(Some(vec![0, 255, 7]))).unwrap(), Some(vec![0, 255, 7]));
        assert_eq!(page_token("").unwrap(), None);
        assert!(page_token("not a token!").is_err());
    }

    #[test]
    fn page_sizes_have_a_default_and_a_limit() {
        assert_eq!(page_size(0).unwrap(), 100);
        assert_eq!(page_size(1000).unwrap(), 1000);
        assert!(page_size(1001).is_err());
    }

    #[test]
    fn a_value_needs_exactly_one_form() {
        assert!(payload(None).is_err());
        assert!(payload(Some(v1::SecretValue { value: None })).is_err());
    }

    #[test]
    fn an_error_names_its_field_once() {
        let text = |error: VaultError| error.to_string();
        assert_eq!(text(path("").unwrap_err()), "path: is empty");
        assert_eq!(text(folder("a//b").unwrap_err()).matches("folder: path: empty segment").count(), 1);
        assert_eq!(text(invalid("principal", "principals are many")), "principal: principals are many");
    }

    #[test]
    fn timestamps_keep_milliseconds() {
        let at = timestamp(UnixMillis(1_700_000_000_123));
        assert_eq!((at.seconds, at.nanos), (1_700_000_000, 123_000_000));
    }
}
