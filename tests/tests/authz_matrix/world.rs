//! A vault with one of each kind of caller, and things for them to call about.

use std::collections::HashMap;

use getrandom::SysRng;
use getrandom::rand_core::UnwrapErr;
use keystead_client::{Client, InitRequest, SecretValue, v1};
use keystead_crypto::token::Token;
use keystead_server::config::{Config, ReadDurability};
use keystead_tests::{TestVault, raw, spiffe_matcher, until};
use tonic::Code;
use tonic::transport::Channel;

use crate::calls::{self, Answer};
use crate::table::{Caller, Target};

/// A policy that changes nothing for any caller.
pub(crate) const HARMLESS_POLICY: &str = "permit (principal == Keystead::Service::\"made\", \
     action == Keystead::Action::\"secrets:read\", resource in Keystead::Folder::\"nowhere\");";

const SERVICE_POLICY: &str = "permit (principal == Keystead::Service::\"granted\", action in [\
     Keystead::Action::\"secrets:read\", Keystead::Action::\"secrets:write\", Keystead::Action::\"secrets:list\", \
     Keystead::Action::\"secrets:history\", Keystead::Action::\"secrets:delete\", Keystead::Action::\"secrets:undelete\", \
     Keystead::Action::\"secrets:destroy\"], resource in Keystead::Folder::\"shop\");";

const VALUE: &[u8] = b"a value";

struct Credentials {
    channel: Channel,
    authorization: Option<String>,
}

/// Vault, callers and things.
pub(crate) struct World {
    vault: TestVault,
    admin: Client,
    callers: HashMap<Caller, Credentials>,
    made: usize,
}

impl World {
    /// A vault that nobody initialized. The callers have their certificates already.
    pub(crate) async fn uninitialized() -> Self {
        // Thousands of refusals are recorded here, and what a power cut would leave of them is not the question.
        let quick = |config: &mut Config| config.audit.durability = ReadDurability::Os;
        let vault = TestVault::builder().uninitialized().config(quick).start().await;
        let certificate = |spiffe: &str| {
            let channel = raw::channel(&vault, Some(&vault.pki().client(spiffe)));
            Credentials { channel, authorization: None }
        };
        let header = |authorization: String| Credentials {
            channel: raw::channel(&vault, None),
            authorization: Some(authorization),
        };
        let mut mistyped = token();
        let last = if mistyped.pop() == Some('a') { 'b' } else { 'a' };
        mistyped.push(last);
        let admin = vault.pki().client("spiffe://test/operator/alice");
        let callers = HashMap::from([
            (Caller::Anonymous, Credentials { channel: raw::channel(&vault, None), authorization: None }),
            (Caller::Unregistered, certificate("spiffe://test/service/unregistered")),
            (Caller::Disabled, certificate("spiffe://test/service/disabled")),
            (Caller::Powerless, certificate("spiffe://test/service/powerless")),
            (Caller::Service, certificate("spiffe://test/service/granted")),
            (Caller::Admin, Credentials { channel: raw::channel(&vault, Some(&admin)), authorization: None }),
            (Caller::Bootstrap, header(format!("Bearer {}", token()))),
            (Caller::UnknownToken, header(format!("Bearer {}", token()))),
            (Caller::MistypedToken, header(format!("Bearer {mistyped}"))),
            (Caller::Garbage, header("Bearer of bad news".to_owned())),
            (
                Caller::Configured,
                Credentials { channel: raw::channel(&vault, Some(vault.admin())), authorization: None },
            ),
            (Caller::Local, Credentials { channel: raw::local_channel(&vault), authorization: None }),
        ]);
        let admin = vault.client(&admin);
        Self { vault, admin, callers, made: 0 }
    }

    /// Initializes, unseals, and registers the callers.
    pub(crate) async fn init(&mut self) {
        let request = InitRequest { operators: Vec::new(), ..self.vault.init_request() };
        let initialized = self.vault.local().system().initialize(request).await.unwrap();
        self.vault.keep_shares(&initialized);
        let token = initialized.bootstrap_token.unwrap().expose_str().unwrap().to_owned();
        self.callers.get_mut(&Caller::Bootstrap).unwrap().authorization = Some(format!("Bearer {token}"));
        self.unseal().await;
        let bootstrap = self.vault.bearer(&token);
        let principal = |name: &str| v1::Principal {
            name: name.to_owned(),
            certificates: vec![spiffe_matcher(&format!("spiffe://test/{name}"))],
            ..Default::default()
        };
        let principals = [
            v1::Principal { disabled: true, ..principal("service/disabled") },
            principal("service/powerless"),
            principal("service/granted"),
            v1::Principal { groups: vec!["admins".to_owned()], ..principal("operator/alice") },
        ];
        for principal in principals {
            bootstrap.auth().put_principal(principal).await.unwrap();
        }
        self.put_policy("granted", SERVICE_POLICY).await;
        let standing = self.standing();
        self.make(&standing).await;
    }

    /// Seals.
    pub(crate) async fn seal(&self) {
        self.admin.system().seal().await.unwrap();
        until("the vault is sealed", || async {
            let status = self.vault.local().system().status().await.unwrap();
            (status.state() == v1::SealState::Sealed).then_some(())
        })
        .await;
    }

    /// Unseals.
    pub(crate) async fn unseal(&self) {
        self.vault.unseal().await;
    }

    /// Calls as one of the callers.
    pub(crate) async fn call(&self, caller: Caller, rpc: &str, message: &[u8]) -> Answer {
        let credentials = self.callers.get(&caller).unwrap();
        calls::call(credentials.channel.clone(), rpc, credentials.authorization.as_deref(), message).await
    }

    /// Puts right what a call ended for everybody.
    pub(crate) async fn after(&self, rpc: &str, code: Code) {
        if rpc == "SystemService/Seal" && code == Code::Ok {
            self.unseal().await;
        }
        if rpc == "KeysService/RotateMasterKey" && code == Code::Ok {
            until("the rotation is over", || async {
                let ways = self.admin.keys().list().await.unwrap().ways;
                ways.iter().all(|way| way.oldest_master_version == way.master_version).then_some(())
            })
            .await;
        }
    }

    /// What exists all the time.
    pub(crate) fn standing(&self) -> Target {
        target("standing")
    }

    /// What never existed.
    pub(crate) fn absent(&mut self) -> Target {
        self.made += 1;
        target(&format!("absent-{}", self.made))
    }

    /// Something for one call, which may remove it.
    pub(crate) async fn fresh(&mut self) -> Target {
        self.made += 1;
        let target = target(&format!("made-{}", self.made));
        self.make(&target).await;
        target
    }

    /// What was refused did not happen.
    pub(crate) async fn nothing_happened_to_what_stands(&self) {
        let standing = self.standing();
        let history = self.admin.secrets().history(&standing.secret).await.unwrap();
        assert_eq!(history.current_version, 1);
        let secret = self.admin.secrets().get(&standing.secret).await.unwrap();
        assert!(matches!(secret.value, SecretValue::Data(value) if value.expose() == VALUE));
        let principal = self.admin.auth().principal(&standing.principal).await.unwrap();
        assert_eq!(principal.certificates.len(), 1, "it was not replaced");
        self.admin.policies().get(&standing.policy).await.unwrap();
    }

    async fn make(&self, target: &Target) {
        self.admin.secrets().put(&target.secret, SecretValue::data(VALUE.to_vec())).await.unwrap();
        let spiffe = format!("spiffe://test/{}", target.principal);
        let principal = v1::Principal {
            name: target.principal.clone(),
            certificates: vec![spiffe_matcher(&spiffe)],
            ..Default::default()
        };
        self.admin.auth().put_principal(principal).await.unwrap();
        self.put_policy(&target.policy, HARMLESS_POLICY).await;
    }

    async fn put_policy(&self, name: &str, text: &str) {
        let policy = v1::Policy { name: name.to_owned(), text: text.to_owned(), ..Default::default() };
        self.admin.policies().put(policy).await.unwrap();
    }
}

fn target(name: &str) -> Target {
    Target {
        secret: format!("shop/{name}/db"),
        folder: format!("shop/{name}"),
        principal: format!("service/{name}"),
        policy: name.to_owned(),
    }
}

fn token() -> String {
    let token = Token::generate(&mut UnwrapErr(SysRng));
    String::from_utf8(token.to_text().into_exposed()).unwrap()
}
