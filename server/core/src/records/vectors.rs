//! The vectors of docs/storage-format.md that this crate makes: payloads and the plaintexts of records. The page is read
//! when this is compiled, so page and code cannot drift apart.

use keystead_crypto::secret::SecretBytes;
use keystead_domain::CertificateMatcher;
use keystead_domain::id::RecordId;
use keystead_domain::name::{GroupName, PolicyName, TenantName};
use keystead_domain::principal::{PrincipalName, PrincipalRecord};
use keystead_domain::secret_value::FieldName;
use keystead_domain::secret_version::{SecretMeta, VersionMeta, VersionState};
use keystead_domain::session::{AuthMethod, SessionBinding, SessionRecord};
use keystead_domain::time::UnixMillis;

use crate::policies::PolicyRecord;
use crate::secrets::Payload;

const PAGE: &str = include_str!("../../../../docs/storage-format.md");
const MADE: UnixMillis = UnixMillis(1_700_000_000_000);

pub(crate) fn check(name: &str, bytes: &[u8]) {
    let lines: Vec<_> =
        PAGE.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(" = ")).collect();
    assert_eq!(lines, [data_encoding::HEXLOWER.encode(bytes)], "vector {name}");
}

fn service() -> PrincipalName {
    PrincipalName::service("shop").unwrap()
}

#[test]
fn payloads() {
    let bytes = Payload::bytes(SecretBytes::copy_from(b"s3cr3t")).unwrap();
    check("payload.bytes", bytes.encode().expose());
    let field = |name, value| (FieldName::parse(name).unwrap(), SecretBytes::copy_from(value));
    let fields = Payload::fields(vec![field("user", b"shop"), field("password", b"")]).unwrap();
    check("payload.fields", fields.encode().expose());
}

#[test]
fn version_list() {
    let version = |version, state| VersionMeta {
        version,
        state,
        created: MADE,
        created_by: service(),
        size: 6,
        data_key: RecordId(std::array::from_fn(|n| 0xa0 + u8::try_from(n).unwrap())),
        master_version: 1,
    };
    let mut meta = SecretMeta::new();
    meta.push(version(1, VersionState::Active)).unwrap();
    meta.delete(&[1], UnixMillis(MADE.0 + 1)).unwrap();
    meta.push(version(2, VersionState::Active)).unwrap();
    check("record.version-list", &super::encode(&meta).unwrap());
}

#[test]
fn principal_and_its_index() {
    let principal = PrincipalRecord {
        name: service(),
        groups: vec![GroupName::parse("apps").unwrap()],
        matchers: vec![
            CertificateMatcher::spiffe("spiffe://example.org/shop").unwrap(),
            CertificateMatcher::dns("shop.example.org").unwrap(),
        ],
        disabled: false,
        created: MADE,
    };
    check("record.principal", &super::encode(&principal).unwrap());
    check("record.principal-index", &super::encode(&service()).unwrap());
}

#[test]
fn policy() {
    let name = PolicyName::parse("apps").unwrap();
    let policy = PolicyRecord { name, text: "// none".to_owned(), updated: MADE };
    check("record.policy", &super::encode(&policy).unwrap());
}

#[test]
fn session() {
    let session = SessionRecord {
        principal: service(),
        tenant: TenantName::default(),
        method: AuthMethod::Jwt,
        binding: SessionBinding::Certificate { fingerprint: [0x11; 32] },
        created: MADE,
        expires: UnixMillis(MADE.0 + 1),
        max_expires: UnixMillis(MADE.0 + 2),
        renewable: true,
        parent: Some(RecordId([0x22; 16])),
        on_behalf_of: Some("ann".to_owned()),
        cidrs: vec!["10.0.0.0/8".parse().unwrap()],
        bootstrap: false,
        generation: MADE.0,
    };
    check("record.session", &super::encode(&session).unwrap());
}
