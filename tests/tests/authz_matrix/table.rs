//! What is promised: a row an rpc, a cell a kind of caller.

use keystead_proto::v1;
use prost::Message;
use tonic::Code;

/// Who calls. The columns of a row, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Caller {
    /// Without certificate and token.
    Anonymous,
    /// With a good certificate that belongs to no principal.
    Unregistered,
    /// A registered service that is disabled.
    Disabled,
    /// A registered service that no policy names.
    Powerless,
    /// A service whose policy grants it everything with secrets below `shop`.
    Service,
    /// An operator in the group of administrators.
    Admin,
    /// The bootstrap administrator's token; before init a token of another vault.
    Bootstrap,
    /// A well-formed token that nobody was given.
    UnknownToken,
    /// A token whose checksum is wrong.
    MistypedToken,
    /// Something that is no token at all.
    Garbage,
    /// A certificate that the configuration names, and no principal.
    Configured,
    /// Somebody on the local socket.
    Local,
}

/// All of them.
pub(crate) const CALLERS: [Caller; 12] = [
    Caller::Anonymous,
    Caller::Unregistered,
    Caller::Disabled,
    Caller::Powerless,
    Caller::Service,
    Caller::Admin,
    Caller::Bootstrap,
    Caller::UnknownToken,
    Caller::MistypedToken,
    Caller::Garbage,
    Caller::Configured,
    Caller::Local,
];

/// The code and the reason of an answer.
pub(crate) type Cell = (Code, &'static str);

/// One cell for each of [`CALLERS`].
pub(crate) type Cells = [Cell; 12];

/// What rpcs are about.
pub(crate) struct Target {
    /// A secret's path.
    pub(crate) secret: String,
    /// A folder with the secret in it.
    pub(crate) folder: String,
    /// A principal's name.
    pub(crate) principal: String,
    /// A policy's name.
    pub(crate) policy: String,
}

/// What is promised of one rpc.
pub(crate) struct Row {
    /// `Service/Method`.
    pub(crate) rpc: &'static str,
    /// The request about a target.
    pub(crate) message: fn(&Target) -> Vec<u8>,
    /// Before init.
    pub(crate) uninitialized: Cells,
    /// Sealed.
    pub(crate) sealed: Cells,
    /// Unsealed, about what exists.
    pub(crate) unsealed: Cells,
    /// Unsealed, about what does not exist, for those who are let in: they may know.
    pub(crate) absent: Cell,
}

const OK: Cell = (Code::Ok, "");
const WHO: Cell = (Code::Unauthenticated, "UNAUTHENTICATED");
const BAD: Cell = (Code::Unauthenticated, "CREDENTIAL_MALFORMED");
const NO: Cell = (Code::PermissionDenied, "DENIED");
const LOCAL: Cell = (Code::PermissionDenied, "OPERATOR_ONLY");
const CLOSED: Cell = (Code::FailedPrecondition, "SEALED");
const OTHER: Cell = (Code::FailedPrecondition, "OTHER_CEREMONY");
const NONE: Cell = (Code::NotFound, "NOT_FOUND");
const INVALID: Cell = (Code::InvalidArgument, "INVALID_ARGUMENT");

/// The same for everybody, but that something which is no token at all comes no further.
const fn everybody(cell: Cell) -> Cells {
    [cell, cell, cell, cell, cell, cell, cell, cell, cell, BAD, cell, cell]
}

/// Whoever stands in the configuration or at the machine.
const fn operators_only(cell: Cell) -> Cells {
    [LOCAL, LOCAL, LOCAL, LOCAL, LOCAL, LOCAL, LOCAL, LOCAL, LOCAL, BAD, cell, cell]
}

/// Principals, by policy.
const fn gated(service: Cell, admin: Cell) -> Cells {
    [WHO, WHO, WHO, NO, service, admin, admin, WHO, WHO, BAD, WHO, WHO]
}

/// Principals, whatever the policies say.
const fn identified(certificate: Cell, token: Cell) -> Cells {
    [WHO, WHO, WHO, certificate, certificate, certificate, token, WHO, WHO, BAD, WHO, WHO]
}

/// Nobody, and nobody learns more.
const SHUT: Cells = everybody(CLOSED);
/// There is no vault yet.
const UNMADE: Cells = everybody((Code::FailedPrecondition, "NOT_INITIALIZED"));

/// Open to anybody who can connect.
const OPEN: Cells = everybody(OK);

fn own_leases() -> v1::LeaseSelector {
    v1::LeaseSelector { which: Some(v1::lease_selector::Which::Own(v1::OwnLeases {})) }
}

fn static_role_of_no_target() -> v1::PutStaticRoleRequest {
    let logins = v1::PostgresStaticLogins { first: "app".to_owned(), second: String::new() };
    let role = v1::StaticRole {
        name: "no-such-role".to_owned(),
        target: "no-such-target".to_owned(),
        logins: Some(v1::static_role::Logins::Postgres(logins)),
        ..Default::default()
    };
    v1::PutStaticRoleRequest { role: Some(role), first_password: b"secret".to_vec(), ..Default::default() }
}

/// Every rpc. The last row takes the bootstrap token away.
pub(crate) const TABLE: &[Row] = &[
    Row {
        rpc: "SystemService/GetStatus",
        message: |_| v1::GetStatusRequest {}.encode_to_vec(),
        uninitialized: OPEN,
        sealed: OPEN,
        unsealed: OPEN,
        absent: OK,
    },
    Row {
        rpc: "SystemService/Initialize",
        // With a wrong PIN: whoever is let in gets as far as the HSM.
        message: |_| {
            let (shares, threshold, hsm_pin) = (3, 2, b"00000000".to_vec());
            v1::InitializeRequest {
                shares,
                threshold,
                hsm_pin,
                accept_total_loss: true,
                ..Default::default()
            }
            .encode_to_vec()
        },
        uninitialized: operators_only((Code::FailedPrecondition, "HSM_PIN_REFUSED")),
        sealed: operators_only((Code::AlreadyExists, "ALREADY_INITIALIZED")),
        unsealed: operators_only((Code::AlreadyExists, "ALREADY_INITIALIZED")),
        absent: OK,
    },
    Row {
        rpc: "SystemService/StartCeremony",
        // One that cannot be: whoever is let in gets as far as that.
        message: |_| {
            let purpose = v1::start_ceremony_request::Purpose::DisableAutoUnseal(v1::DisableAutoUnseal {});
            v1::StartCeremonyRequest { purpose: Some(purpose) }.encode_to_vec()
        },
        uninitialized: UNMADE,
        sealed: SHUT,
        unsealed: gated(NO, INVALID),
        absent: INVALID,
    },
    Row {
        rpc: "SystemService/ExportSealRecord",
        message: |_| v1::ExportSealRecordRequest {}.encode_to_vec(),
        uninitialized: UNMADE,
        sealed: SHUT,
        unsealed: gated(NO, OK),
        absent: OK,
    },
    Row {
        rpc: "SystemService/SubmitShare",
        // A share is the credential.
        message: |_| {
            v1::SubmitShareRequest { share: b"ks1-share-".to_vec(), ..Default::default() }.encode_to_vec()
        },
        uninitialized: everybody((Code::FailedPrecondition, "NOT_INITIALIZED")),
        sealed: everybody((Code::InvalidArgument, "SHARE_TRUNCATED")),
        unsealed: everybody((Code::FailedPrecondition, "ALREADY_UNSEALED")),
        absent: OK,
    },
    Row {
        rpc: "SystemService/CancelCeremony",
        message: |_| v1::CancelCeremonyRequest { ceremony_id: "0".repeat(32) }.encode_to_vec(),
        uninitialized: operators_only((Code::FailedPrecondition, "OTHER_CEREMONY")),
        sealed: operators_only((Code::FailedPrecondition, "OTHER_CEREMONY")),
        unsealed: [WHO, WHO, WHO, NO, NO, OTHER, OTHER, WHO, WHO, BAD, OTHER, OTHER],
        absent: OTHER,
    },
    Row {
        rpc: "SystemService/Seal",
        message: |_| v1::SealRequest {}.encode_to_vec(),
        uninitialized: UNMADE,
        sealed: SHUT,
        unsealed: gated(NO, OK),
        absent: OK,
    },
    Row {
        rpc: "AuthService/WhoAmI",
        message: |_| v1::WhoAmIRequest {}.encode_to_vec(),
        uninitialized: UNMADE,
        sealed: SHUT,
        unsealed: identified(OK, OK),
        absent: OK,
    },
    Row {
        rpc: "AuthService/PutPrincipal",
        message: |at| {
            let principal = v1::Principal { name: at.principal.clone(), ..Default::default() };
            v1::PutPrincipalRequest { principal: Some(principal) }.encode_to_vec()
        },
        uninitialized: UNMADE,
        sealed: SHUT,
        unsealed: gated(NO, OK),
        absent: OK,
    },
    Row {
        rpc: "AuthService/GetPrincipal",
        message: |at| v1::GetPrincipalRequest { name: at.principal.clone() }.encode_to_vec(),
        uninitialized: UNMADE,
        sealed: SHUT,
        unsealed: gated(NO, OK),
        absent: NONE,
    },
    Row {
        rpc: "AuthService/ListPrincipals",
        message: |_| v1::ListPrincipalsRequest::default().encode_to_vec(),
        uninitialized: UNMADE,
        sealed: SHUT,
        unsealed: gated(NO, OK),
        absent: OK,
    },
    Row {
        rpc: "AuthService/DeletePrincipal",
        message: |at| v1::DeletePrincipalRequest { name: at.principal.clone() }.encode_to_vec(),
        uninitialized: UNMADE,
        sealed: SHUT,
        unsealed: gated(NO, OK),
        absent: NONE,
    },
    Row {
        rpc: "PoliciesService/PutPolicy",
        message: |at| {
            let text = crate::world::HARMLESS_POLICY.to_owned();
            let policy = v1::Policy { name: at.policy.clone(), text, ..Default::default() };
            v1::PutPolicyRequest { policy: Some(policy) }.encode_to_vec()
        },
        uninitialized: UNMADE,
        sealed: SHUT,
        unsealed: gated(NO, OK),
        absent: OK,
    },
    Row {
        rpc: "PoliciesService/GetPolicy",
        message: |at| v1::GetPolicyRequest { name: at.policy.clone() }.encode_to_vec(),
        uninitialized: UNMADE,
        sealed: SHUT,
        unsealed: gated(NO, OK),
        absent: NONE,
    },
    Row {
        rpc: "PoliciesService/ListPolicies",
        message: |_| v1::ListPoliciesRequest::default().encode_to_vec(),
        uninitialized: UNMADE,
        sealed: SHUT,
        unsealed: gated(NO, OK),
        absent: OK,
    },
    Row {
        rpc: "PoliciesService/DeletePolicy",
        message: |at| v1::DeletePolicyRequest { name: at.policy.clone() }.encode_to_vec(),
        uninitialized: UNMADE,
        sealed: SHUT,
        unsealed: gated(NO, OK),
        absent: NONE,
    },
    Row {
        rpc: "PoliciesService/ExplainPolicy",
        message: |at| {
            let (principal, action) = (at.principal.clone(), "secrets:read".to_owned());
            let resource = format!("secret/{}", at.secret);
            v1::ExplainPolicyRequest { principal, action, resource }.encode_to_vec()
        },
        uninitialized: UNMADE,
        sealed: SHUT,
        unsealed: gated(NO, OK),
        absent: OK,
    },
    Row {
        rpc: "SecretsService/PutSecret",
        message: |at| {
            let value = v1::SecretValue { value: Some(v1::secret_value::Value::Data(b"new".to_vec())) };
            v1::PutSecretRequest { path: at.secret.clone(), value: Some(value), ..Default::default() }
                .encode_to_vec()
        },
        uninitialized: UNMADE,
        sealed: SHUT,
        unsealed: gated(OK, OK),
        absent: OK,
    },
    Row {
        rpc: "SecretsService/GetSecret",
        message: |at| v1::GetSecretRequest { path: at.secret.clone(), version: 0 }.encode_to_vec(),
        uninitialized: UNMADE,
        sealed: SHUT,
        unsealed: gated(OK, OK),
        absent: NONE,
    },
    Row {
        rpc: "SecretsService/BatchGetSecrets",
        message: |at| {
            let one = v1::GetSecretRequest { path: at.secret.clone(), version: 0 };
            v1::BatchGetSecretsRequest { requests: vec![one.clone(), one] }.encode_to_vec()
        },
        uninitialized: UNMADE,
        sealed: SHUT,
        unsealed: gated(OK, OK),
        absent: NONE,
    },
    Row {
        rpc: "SecretsService/ListSecrets",
        message: |at| {
            v1::ListSecretsRequest { folder: at.folder.clone(), ..Default::default() }.encode_to_vec()
        },
        uninitialized: UNMADE,
        sealed: SHUT,
        unsealed: gated(OK, OK),
        absent: OK,
    },
    Row {
        rpc: "SecretsService/GetSecretHistory",
        message: |at| v1::GetSecretHistoryRequest { path: at.secret.clone() }.encode_to_vec(),
        uninitialized: UNMADE,
        sealed: SHUT,
        unsealed: gated(OK, OK),
        absent: NONE,
    },
    Row {
        rpc: "SecretsService/DeleteSecretVersions",
        message: |at| {
            v1::DeleteSecretVersionsRequest { path: at.secret.clone(), versions: vec![1] }.encode_to_vec()
        },
        uninitialized: UNMADE,
        sealed: SHUT,
        unsealed: gated(OK, OK),
        absent: NONE,
    },
    Row {
        rpc: "SecretsService/UndeleteSecretVersions",
        message: |at| {
            v1::UndeleteSecretVersionsRequest { path: at.secret.clone(), versions: vec![1] }.encode_to_vec()
        },
        uninitialized: UNMADE,
        sealed: SHUT,
        unsealed: gated(OK, OK),
        absent: NONE,
    },
    Row {
        rpc: "SecretsService/DestroySecretVersions",
        message: |at| {
            v1::DestroySecretVersionsRequest { path: at.secret.clone(), versions: vec![1] }.encode_to_vec()
        },
        uninitialized: UNMADE,
        sealed: SHUT,
        unsealed: gated(OK, OK),
        absent: NONE,
    },
    Row {
        rpc: "CredentialsService/PutTarget",
        // A new one without its login: whoever is let in gets as far as that.
        message: |_| {
            let settings = v1::PostgresTarget {
                host: "db.invalid".to_owned(),
                database: "shop".to_owned(),
                ca_pem: "none".to_owned(),
                admin: "keystead".to_owned(),
                ..Default::default()
            };
            let target = v1::Target {
                name: "made".to_owned(),
                settings: Some(v1::target::Settings::Postgres(settings)),
                max_ttl: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
                ..Default::default()
            };
            v1::PutTargetRequest { target: Some(target), admin_password: Vec::new() }.encode_to_vec()
        },
        uninitialized: UNMADE,
        sealed: SHUT,
        unsealed: gated(NO, INVALID),
        absent: INVALID,
    },
    Row {
        rpc: "CredentialsService/GetTarget",
        message: |_| v1::GetTargetRequest { name: "no-such-target".to_owned() }.encode_to_vec(),
        uninitialized: UNMADE,
        sealed: SHUT,
        unsealed: gated(NO, NONE),
        absent: NONE,
    },
    Row {
        rpc: "CredentialsService/ListTargets",
        message: |_| v1::ListTargetsRequest::default().encode_to_vec(),
        uninitialized: UNMADE,
        sealed: SHUT,
        unsealed: gated(NO, OK),
        absent: OK,
    },
    Row {
        rpc: "CredentialsService/DeleteTarget",
        message: |_| v1::DeleteTargetRequest { name: "no-such-target".to_owned() }.encode_to_vec(),
        uninitialized: UNMADE,
        sealed: SHUT,
        unsealed: gated(NO, NONE),
        absent: NONE,
    },
    Row {
        rpc: "CredentialsService/CheckTarget",
        message: |_| v1::CheckTargetRequest { name: "no-such-target".to_owned() }.encode_to_vec(),
        uninitialized: UNMADE,
        sealed: SHUT,
        unsealed: gated(NO, NONE),
        absent: NONE,
    },
    Row {
        rpc: "CredentialsService/RotateTargetLogin",
        message: |_| v1::RotateTargetLoginRequest { name: "no-such-target".to_owned() }.encode_to_vec(),
        uninitialized: UNMADE,
        sealed: SHUT,
        unsealed: gated(NO, NONE),
        absent: NONE,
    },
    Row {
        rpc: "CredentialsService/GetTargetSetup",
        message: |_| {
            let (database, admin) = ("shop".to_owned(), "keystead".to_owned());
            let setup = v1::PostgresSetup { database, admin, roles: Vec::new() };
            let kind = Some(v1::get_target_setup_request::Kind::Postgres(setup));
            v1::GetTargetSetupRequest { name: "made".to_owned(), kind }.encode_to_vec()
        },
        uninitialized: UNMADE,
        sealed: SHUT,
        unsealed: gated(NO, OK),
        absent: OK,
    },
    Row {
        rpc: "CredentialsService/PutRole",
        // In a target that is not there.
        message: |_| {
            let span = Some(prost_types::Duration { seconds: 60, nanos: 0 });
            let role = v1::Role {
                name: "made".to_owned(),
                target: "no-such-target".to_owned(),
                declaration: Some(v1::role::Declaration::Postgres(v1::PostgresRole::default())),
                default_ttl: span,
                max_ttl: span,
                ..Default::default()
            };
            v1::PutRoleRequest { role: Some(role) }.encode_to_vec()
        },
        uninitialized: UNMADE,
        sealed: SHUT,
        unsealed: gated(NO, NONE),
        absent: NONE,
    },
    Row {
        rpc: "CredentialsService/GetRole",
        message: |_| v1::GetRoleRequest { name: "no-such-role".to_owned() }.encode_to_vec(),
        uninitialized: UNMADE,
        sealed: SHUT,
        unsealed: gated(NO, NONE),
        absent: NONE,
    },
    Row {
        rpc: "CredentialsService/ListRoles",
        message: |_| v1::ListRolesRequest::default().encode_to_vec(),
        uninitialized: UNMADE,
        sealed: SHUT,
        unsealed: gated(NO, OK),
        absent: OK,
    },
    Row {
        rpc: "CredentialsService/DeleteRole",
        message: |_| v1::DeleteRoleRequest { name: "no-such-role".to_owned() }.encode_to_vec(),
        uninitialized: UNMADE,
        sealed: SHUT,
        unsealed: gated(NO, NONE),
        absent: NONE,
    },
    Row {
        rpc: "CredentialsService/VerifyRole",
        message: |_| v1::VerifyRoleRequest { name: "no-such-role".to_owned() }.encode_to_vec(),
        uninitialized: UNMADE,
        sealed: SHUT,
        unsealed: gated(NO, NONE),
        absent: NONE,
    },
    Row {
        rpc: "CredentialsService/IssueCredential",
        message: |_| {
            v1::IssueCredentialRequest { role: "no-such-role".to_owned(), ..Default::default() }
                .encode_to_vec()
        },
        uninitialized: UNMADE,
        sealed: SHUT,
        unsealed: gated(NO, NONE),
        absent: NONE,
    },
    Row {
        rpc: "StaticRolesService/PutStaticRole",
        message: |_| static_role_of_no_target().encode_to_vec(),
        uninitialized: UNMADE,
        sealed: SHUT,
        unsealed: gated(NO, NONE),
        absent: NONE,
    },
    Row {
        rpc: "StaticRolesService/GetStaticRole",
        message: |_| v1::GetStaticRoleRequest { name: "no-such-role".to_owned() }.encode_to_vec(),
        uninitialized: UNMADE,
        sealed: SHUT,
        unsealed: gated(NO, NONE),
        absent: NONE,
    },
    Row {
        rpc: "StaticRolesService/ListStaticRoles",
        message: |_| v1::ListStaticRolesRequest::default().encode_to_vec(),
        uninitialized: UNMADE,
        sealed: SHUT,
        unsealed: gated(NO, OK),
        absent: OK,
    },
    Row {
        rpc: "StaticRolesService/DeleteStaticRole",
        message: |_| v1::DeleteStaticRoleRequest { name: "no-such-role".to_owned() }.encode_to_vec(),
        uninitialized: UNMADE,
        sealed: SHUT,
        unsealed: gated(NO, NONE),
        absent: NONE,
    },
    Row {
        rpc: "StaticRolesService/RotateStaticRole",
        message: |_| v1::RotateStaticRoleRequest { name: "no-such-role".to_owned() }.encode_to_vec(),
        uninitialized: UNMADE,
        sealed: SHUT,
        unsealed: gated(NO, NONE),
        absent: NONE,
    },
    Row {
        rpc: "StaticRolesService/GetStaticCredential",
        message: |_| v1::GetStaticCredentialRequest { name: "no-such-role".to_owned() }.encode_to_vec(),
        uninitialized: UNMADE,
        sealed: SHUT,
        unsealed: gated(NO, NONE),
        absent: NONE,
    },
    Row {
        rpc: "LeasesService/GetLease",
        // Of nobody: what is refused is refused as another's lease is.
        message: |_| v1::GetLeaseRequest { id: "0".repeat(32) }.encode_to_vec(),
        uninitialized: UNMADE,
        sealed: SHUT,
        unsealed: gated(NO, NONE),
        absent: NONE,
    },
    Row {
        rpc: "LeasesService/WatchLease",
        message: |_| v1::WatchLeaseRequest { id: "0".repeat(32) }.encode_to_vec(),
        uninitialized: UNMADE,
        sealed: SHUT,
        unsealed: gated(NO, NONE),
        absent: NONE,
    },
    Row {
        rpc: "LeasesService/ListLeases",
        message: |_| v1::ListLeasesRequest { of: Some(own_leases()), ..Default::default() }.encode_to_vec(),
        uninitialized: UNMADE,
        sealed: SHUT,
        unsealed: identified(OK, OK),
        absent: OK,
    },
    Row {
        rpc: "LeasesService/RenewLease",
        message: |_| v1::RenewLeaseRequest { id: "0".repeat(32), ttl: None }.encode_to_vec(),
        uninitialized: UNMADE,
        sealed: SHUT,
        unsealed: gated(NO, NONE),
        absent: NONE,
    },
    Row {
        rpc: "LeasesService/RevokeLease",
        message: |_| v1::RevokeLeaseRequest { id: "0".repeat(32), force: true }.encode_to_vec(),
        uninitialized: UNMADE,
        sealed: SHUT,
        unsealed: gated(NO, NONE),
        absent: NONE,
    },
    Row {
        rpc: "LeasesService/RevokeLeases",
        message: |_| v1::RevokeLeasesRequest { of: Some(own_leases()) }.encode_to_vec(),
        uninitialized: UNMADE,
        sealed: SHUT,
        unsealed: identified(OK, OK),
        absent: OK,
    },
    Row {
        rpc: "LeasesService/AcceptClock",
        message: |_| v1::AcceptClockRequest {}.encode_to_vec(),
        uninitialized: UNMADE,
        sealed: SHUT,
        unsealed: gated(NO, OK),
        absent: OK,
    },
    Row {
        rpc: "KeysService/ListKeys",
        message: |_| v1::ListKeysRequest {}.encode_to_vec(),
        uninitialized: UNMADE,
        sealed: SHUT,
        unsealed: gated(NO, OK),
        absent: OK,
    },
    Row {
        rpc: "KeysService/GetRotation",
        message: |_| v1::GetRotationRequest {}.encode_to_vec(),
        uninitialized: UNMADE,
        sealed: SHUT,
        unsealed: gated(NO, OK),
        absent: OK,
    },
    Row {
        rpc: "KeysService/RotateMasterKey",
        message: |_| v1::RotateMasterKeyRequest {}.encode_to_vec(),
        uninitialized: UNMADE,
        sealed: SHUT,
        unsealed: gated(NO, OK),
        absent: OK,
    },
    Row {
        rpc: "KeysService/RetireWay",
        message: |_| v1::RetireWayRequest { way: "no-such-way".to_owned() }.encode_to_vec(),
        uninitialized: UNMADE,
        sealed: SHUT,
        unsealed: gated(NO, NONE),
        absent: NONE,
    },
    Row {
        rpc: "AuditService/TailAudit",
        message: |_| v1::TailAuditRequest { last: 1, follow: false }.encode_to_vec(),
        uninitialized: UNMADE,
        sealed: SHUT,
        unsealed: gated(NO, OK),
        absent: OK,
    },
    Row {
        rpc: "AuthService/RevokeSelf",
        message: |_| v1::RevokeSelfRequest {}.encode_to_vec(),
        uninitialized: UNMADE,
        sealed: SHUT,
        unsealed: identified(INVALID, OK),
        absent: OK,
    },
];
