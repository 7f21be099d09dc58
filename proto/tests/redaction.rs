//! No field marked `debug_redact` is printed by `Debug`, however deep it lies.
//!
//! Walks the descriptor set: each way from a message to such a field gets a canary, and a message without a row in
//! `debug_of` fails the test. The canary must be found in the encoded bytes, so that the search itself is known to work.

#![expect(clippy::unwrap_used, clippy::panic, reason = "an integration test has functions beside its tests")]

use std::fmt::Debug;

use keystead_proto::{FILE_DESCRIPTOR_SET, v1};
use protox::prost::Message;
use protox::prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value,
};

const CANARY: &str = "canary-5d1c";
const DEPTH: usize = 8;

#[test]
fn no_redacted_field_is_printed() {
    let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).unwrap();
    let mut planted_in_all = 0;
    for message in pool.all_messages().filter(|message| message.package_name() == "keystead.v1") {
        for planted in planted(&message, DEPTH) {
            let bytes = planted.encode_to_vec();
            assert!(contains(&bytes, CANARY.as_bytes()), "no canary was planted in {planted:?}");
            let shown = debug_of(message.name(), &bytes).unwrap_or_else(|| {
                panic!("{} holds a redacted field and has no row in debug_of", message.name())
            });
            for text in shown {
                assert!(!text.contains(CANARY), "{}: {text}", message.name());
                assert!(!text.contains(&format!("{:?}", CANARY.as_bytes())), "{}: {text}", message.name());
                assert!(text.contains("[redacted]"), "{}: {text}", message.name());
            }
            planted_in_all += 1;
        }
    }
    assert!(planted_in_all >= 10, "only {planted_in_all} canaries were planted");
}

#[test]
fn the_search_finds_a_canary_in_a_field_that_is_not_redacted() {
    let request = v1::GetSecretRequest { path: CANARY.to_owned(), version: 0 };
    assert!(format!("{request:?}").contains(CANARY));
}

/// One message for each way to a redacted field, with a canary at its end.
fn planted(message: &MessageDescriptor, depth: usize) -> Vec<DynamicMessage> {
    if depth == 0 {
        return Vec::new();
    }
    let mut all = Vec::new();
    for field in message.fields() {
        let values = match field.kind() {
            _ if is_redacted(&field) => vec![canary(&field)],
            Kind::Message(inner) => planted(&inner, depth - 1).into_iter().map(Value::Message).collect(),
            _ => Vec::new(),
        };
        for value in values {
            let mut dynamic = DynamicMessage::new(message.clone());
            assert!(!field.is_map(), "{}: maps are not redacted", field.full_name());
            dynamic.set_field(&field, if field.is_list() { Value::List(vec![value]) } else { value });
            all.push(dynamic);
        }
    }
    all
}

fn canary(field: &FieldDescriptor) -> Value {
    match field.kind() {
        Kind::String => Value::String(CANARY.to_owned()),
        Kind::Bytes => Value::Bytes(CANARY.into()),
        other => panic!("{}: a redacted field of kind {other:?} has no canary", field.full_name()),
    }
}

fn is_redacted(field: &FieldDescriptor) -> bool {
    field.options().get_field_by_name("debug_redact").is_some_and(|value| value.as_bool() == Some(true))
}

fn contains(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
}

fn debug_of(message: &str, bytes: &[u8]) -> Option<[String; 2]> {
    fn shown<M: Message + Default + Debug>(bytes: &[u8]) -> [String; 2] {
        let message = M::decode(bytes).unwrap();
        [format!("{message:?}"), format!("{message:#?}")]
    }
    macro_rules! rows {
        ($($name:ident),* $(,)?) => {
            match message {
                $(stringify!($name) => Some(shown::<v1::$name>(bytes)),)*
                _ => None,
            }
        };
    }
    rows!(
        AddToken,
        BatchGetSecretsResponse,
        ChangePin,
        Credential,
        GetSecretResponse,
        GetStaticCredentialResponse,
        InitializeRequest,
        InitializeResponse,
        IssueCredentialResponse,
        PostgresCredential,
        PutSecretRequest,
        PutStaticRoleRequest,
        PutTargetRequest,
        RenewLeaseResponse,
        SecretField,
        SecretFields,
        SecretValue,
        StartCeremonyRequest,
        SubmitShareRequest,
        SubmitShareResponse,
        UnsealShare,
    )
}
