//! Arguments with a form of their own: `name=file`, `NAME=path#field`, `operator=identity`.
//!
//! Parsing here finds only what is ambiguous or cannot be sent; the rules of names and paths are the server's. What may
//! be a secret in the wrong place is refused without being repeated.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::builder::TypedValueParser;
use clap::error::ErrorKind;
use keystead_client::v1;
use keystead_client::v1::certificate_matcher::San;
use keystead_crypto::recovery::RecoveryRecipient;

/// Why an argument is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ValueError {
    #[error("there is no =, as in {0}")]
    NoEquals(&'static str),
    #[error("there is nothing before the =, as in {0}")]
    NoName(&'static str),
    #[error("there is nothing after the =, as in {0}")]
    NoValue(&'static str),
    #[error(
        "{0:?} cannot be the name of an environment variable: letters, digits and _, not starting with a digit"
    )]
    VariableName(String),
    #[error("there is nothing after the #, as in PGPASSWORD=shop/db#password")]
    NoField,
    #[error("it is not UTF-8 text")]
    NotText,
    #[error("an identity is spiffe://..., dns:HOST or email:ADDRESS")]
    Identity,
}

/// The name of a field whose value comes from elsewhere. Clap's own errors would quote a value that is given with it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FieldName;

impl TypedValueParser for FieldName {
    type Value = String;

    fn parse_ref(
        &self,
        command: &clap::Command,
        _argument: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<String, clap::Error> {
        let refused = |why| clap::Error::raw(ErrorKind::ValueValidation, why).with_cmd(command);
        match value.to_str() {
            None => Err(refused("the name of a field is text\n")),
            Some(name) if name.contains('=') => {
                Err(refused("values are never arguments: --field NAME asks, --stdin NAME reads\n"))
            }
            Some(name) => Ok(name.to_owned()),
        }
    }
}

/// An age recipient. Clap's own errors would quote an identity that is given in its place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recipient;

impl TypedValueParser for Recipient {
    type Value = String;

    fn parse_ref(
        &self,
        command: &clap::Command,
        _argument: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<String, clap::Error> {
        let refused =
            |why| clap::Error::raw(ErrorKind::ValueValidation, format!("{why}\n")).with_cmd(command);
        let text = value.to_str().unwrap_or_default();
        RecoveryRecipient::parse(text).map(|_| text.to_owned()).map_err(refused)
    }
}

/// `name=file`: a field and where its value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FieldFile {
    pub(crate) name: String,
    pub(crate) file: PathBuf,
}

/// A field and its file. Clap's own errors would quote a value that is given in their place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FieldFileParser;

impl TypedValueParser for FieldFileParser {
    type Value = FieldFile;

    fn parse_ref(
        &self,
        command: &clap::Command,
        _argument: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<FieldFile, clap::Error> {
        let refused = |why: ValueError| {
            clap::Error::raw(ErrorKind::ValueValidation, format!("--from-file NAME=FILE: {why}\n"))
                .with_cmd(command)
        };
        let text = value.to_str().ok_or(ValueError::NotText).map_err(refused)?;
        let (name, file) = halves(text, "password=password.txt").map_err(refused)?;
        Ok(FieldFile { name: name.to_owned(), file: file.into() })
    }
}

/// `NAME=path#field`: an environment variable and the secret that goes into it; without `#field`, one of plain bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EnvSecret {
    pub(crate) name: String,
    pub(crate) path: String,
    pub(crate) field: Option<String>,
}

impl FromStr for EnvSecret {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        const EXAMPLE: &str = "PGPASSWORD=shop/db#password";
        let (name, secret) = halves(text, EXAMPLE)?;
        let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if !starts_well || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return Err(ValueError::VariableName(name.to_owned()));
        }
        let (path, field) = match secret.split_once('#') {
            None => (secret, None),
            Some((_, "")) => return Err(ValueError::NoField),
            Some(("", _)) => return Err(ValueError::NoValue(EXAMPLE)),
            Some((path, field)) => (path, Some(field.to_owned())),
        };
        Ok(Self { name: name.to_owned(), path: path.to_owned(), field })
    }
}

/// `name=identity`: an operator and its client certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Operator {
    pub(crate) principal: String,
    pub(crate) identity: Identity,
}

impl FromStr for Operator {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (name, identity) = halves(text, "alice=spiffe://example.org/alice")?;
        let principal = if name.contains('/') { name.to_owned() } else { format!("operator/{name}") };
        Ok(Self { principal, identity: identity.parse()? })
    }
}

impl From<Operator> for v1::InitialOperator {
    fn from(operator: Operator) -> Self {
        let matcher = v1::CertificateMatcher { san: Some(operator.identity.into()) };
        Self { principal: operator.principal, matcher: Some(matcher) }
    }
}

/// One SAN of a client certificate: `spiffe://…`, `dns:…` or `email:…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Identity {
    Spiffe(String),
    Dns(String),
    Email(String),
}

impl FromStr for Identity {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let rest = |prefix: &str| text.strip_prefix(prefix).filter(|rest| !rest.is_empty());
        if rest("spiffe://").is_some() {
            Ok(Self::Spiffe(text.to_owned()))
        } else if let Some(dns) = rest("dns:") {
            Ok(Self::Dns(dns.to_owned()))
        } else if let Some(email) = rest("email:") {
            Ok(Self::Email(email.to_owned()))
        } else {
            Err(ValueError::Identity)
        }
    }
}

impl From<Identity> for San {
    fn from(identity: Identity) -> Self {
        match identity {
            Identity::Spiffe(uri) => Self::SpiffeUri(uri),
            Identity::Dns(name) => Self::Dns(name),
            Identity::Email(address) => Self::Email(address),
        }
    }
}

fn halves<'a>(text: &'a str, example: &'static str) -> Result<(&'a str, &'a str), ValueError> {
    match text.split_once('=') {
        None => Err(ValueError::NoEquals(example)),
        Some(("", _)) => Err(ValueError::NoName(example)),
        Some((_, "")) => Err(ValueError::NoValue(example)),
        Some(halves) => Ok(halves),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_names_its_secret() {
        let secret: EnvSecret = "PGPASSWORD=shop/db#password".parse().unwrap();
        assert_eq!(secret.name, "PGPASSWORD");
        assert_eq!(secret.path, "shop/db");
        assert_eq!(secret.field.as_deref(), Some("password"));
        let whole: EnvSecret = "_X1=shop/a=b".parse().unwrap();
        assert_eq!((whole.path.as_str(), whole.field), ("shop/a=b", None));
        for (text, why) in [
            ("1X=a", ValueError::VariableName("1X".into())),
            ("A-B=a", ValueError::VariableName("A-B".into())),
            ("A=a#", ValueError::NoField),
            ("A=#f", ValueError::NoValue("PGPASSWORD=shop/db#password")),
            ("A", ValueError::NoEquals("PGPASSWORD=shop/db#password")),
            ("=a", ValueError::NoName("PGPASSWORD=shop/db#password")),
        ] {
            assert_eq!(text.parse::<EnvSecret>(), Err(why), "{text}");
        }
    }

    #[test]
    fn an_operator_has_a_kind_and_an_identity() {
        let alice: Operator = "alice=spiffe://example.org/alice".parse().unwrap();
        assert_eq!(alice.principal, "operator/alice");
        assert_eq!(alice.identity, Identity::Spiffe("spiffe://example.org/alice".into()));
        let bob: Operator = "operator/bob=email:bob@example.org".parse().unwrap();
        assert_eq!(bob.principal, "operator/bob");
        assert_eq!(bob.identity, Identity::Email("bob@example.org".into()));
        assert_eq!(
            "c=dns:c.example.org".parse::<Operator>().unwrap().identity,
            Identity::Dns("c.example.org".into())
        );
        for text in ["a=example.org", "a=dns:", "a=spiffe://"] {
            assert_eq!(text.parse::<Operator>(), Err(ValueError::Identity), "{text}");
        }
    }

    #[test]
    fn a_field_names_its_file() {
        let of =
            |text: &str| FieldFileParser.parse_ref(&clap::Command::new("keystead"), None, OsStr::new(text));
        assert_eq!(of("key=dir/a=b").unwrap(), FieldFile { name: "key".into(), file: "dir/a=b".into() });
        for wrong in ["canary", "=canary", "canary="] {
            let said = of(wrong).unwrap_err().to_string();
            assert!(
                said.contains("--from-file NAME=FILE: there is no") && !said.contains("canary"),
                "{said}"
            );
        }
    }
}
