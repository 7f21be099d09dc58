//! Tests of the configuration as its writer meets it: presets, overrides, refusals, documentation.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use keystead_audit::Head;
use keystead_domain::CertificateMatcher;

use super::{Config, ConfigError, LogFormat, ReadDurability, keys};
use crate::env::{Environment, OVERRIDE_PREFIX};
use crate::tls::testing::{HOUR, TestCa, dates, files, now, pem, write};

const MINIMAL: &str = r#"
[server]
data_dir = "/var/lib/keystead"
[tls]
cert_file = "server.pem"
key_file = "/keys/server.key"
client_ca_file = "ca.pem"
[hsm]
module = "/usr/lib/softhsm/libsofthsm2.so"
token_label = "vault"
"#;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(Path::new("/etc/keystead/keystead.toml"), text, &Environment::default())
}

fn with_override(name: &str, value: &str) -> Result<Config, ConfigError> {
    let name = OsString::from(format!("{OVERRIDE_PREFIX}{name}"));
    let environment = Environment::from_variables([(name, OsString::from(value))]);
    Config::parse(Path::new("/etc/keystead/keystead.toml"), MINIMAL, &environment)
}

fn refusal(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

#[test]
fn minimal_file_takes_the_presets() {
    let config = parse(MINIMAL).unwrap();
    assert_eq!(config.server.listen, "127.0.0.1:8200".parse().unwrap());
    assert_eq!(config.server.unix_socket, Path::new("/var/lib/keystead/keystead.sock"));
    assert_eq!(config.tls.cert_file, Path::new("/etc/keystead/server.pem"));
    assert_eq!(config.audit.dir, Path::new("/var/lib/keystead/audit"));
    assert_eq!(config.audit.durability, ReadDurability::Fsync);
    assert_eq!(config.audit.anchor_interval, Some(Duration::from_secs(60)));
    assert_eq!(config.audit.accept_anchor, None);
    assert_eq!(config.hsm.sessions, 4);
    assert_eq!(config.metrics.listen, None);
    assert!(config.operators.is_empty());
}

#[test]
fn everything_can_be_set() {
    let text = format!(
        "{MINIMAL}module_sha256 = \"{}\"\nsessions = 0x8\n[hsm.env]\nSOFTHSM2_CONF = \"/c\"\n\
         [[operators]]\nname = \"ann\"\nspiffe = \"spiffe://a.org/operator/ann\"\n\
         [[operators]]\nname = \"bob\"\nemail = \"bob@a.org\"\n\
         [audit]\ndurability = \"os\"\njson_file = \"audit.json\"\nreserve_mib = 2\n\
         anchor_interval_s = 0\naccept_anchor = \"7:{}\"\n\
         [metrics]\nlisten = \"[::1]:0\"\n[log]\nformat = \"json\"\nlevel = \"debug\"\n",
        "ab".repeat(32),
        "cd".repeat(32)
    );
    let config = parse(&text).unwrap();
    assert_eq!(config.audit.anchor_interval, None);
    assert_eq!(config.audit.accept_anchor, Some(Head { size: 7, root: [0xcd; 32] }));
    assert_eq!(config.hsm.module_sha256, Some([0xab; 32]));
    assert_eq!(config.hsm.sessions, 8);
    assert_eq!(config.hsm.env, [("SOFTHSM2_CONF".to_owned(), "/c".to_owned())]);
    assert_eq!(config.operators[1].identity, CertificateMatcher::email("bob@a.org").unwrap());
    assert_eq!(config.audit.durability, ReadDurability::Os);
    assert_eq!(config.audit.reserve_bytes, 2 << 20);
    assert_eq!(config.audit.json_file.as_deref(), Some(Path::new("/etc/keystead/audit.json")));
    assert_eq!((config.log.level, config.log.format), (tracing::Level::DEBUG, LogFormat::Json));
}

#[test]
fn further_tokens_are_tables_inside_the_first() {
    let text = format!(
        "{MINIMAL}[[hsm.further]]\nmodule = \"b.so\"\ntoken_label = \"b\"\nenv = {{ B = \"1\" }}\n\
         [[hsm.further]]\nmodule = \"/c.so\"\ntoken_label = \"c\"\nclone_of = \"9f2c\"\ndeadline_ms = 900\n"
    );
    let config = parse(&text).unwrap();
    assert_eq!(config.hsm.token_label, "vault");
    let [second, third] = config.further.as_slice() else { panic!("two further tokens") };
    assert_eq!((second.module.as_path(), second.sessions), (Path::new("/etc/keystead/b.so"), 4));
    assert_eq!(second.env, [("B".to_owned(), "1".to_owned())]);
    assert_eq!((third.clone_of.as_deref(), third.deadline.as_millis()), (Some("9f2c"), 900));
    assert!(config.describe().to_string().contains("hsm.further.2.clone_of = 9f2c"));
    let refused = |text: &str| refusal(&format!("{MINIMAL}{text}"));
    assert!(refused("[[hsm.further]]\nmodule = \"b.so\"").contains("`hsm.further.token_label` is missing"));
    assert!(refused("[[hsm.further]]\nlabel = \"b\"").contains("unknown key `hsm.further.label`"));
    assert!(refused("[hsm.further]\nmodule = \"b\"").contains("tables headed [[hsm.further]]"));
    assert!(refused("[[\"hsm.further\"]]\nmodule = \"b\"").contains("unknown section `hsm.further`"));
}

#[test]
fn errors_name_place_key_and_what_is_allowed() {
    let at = |extra: &str| refusal(&format!("{MINIMAL}{extra}"));
    let cases = [
        ("[log]\nlevl = \"info\"", ":12:1: unknown key `log.levl`; allowed there: level, format"),
        ("[lag]\nlevel = 1", ":11:2: unknown section `lag`; allowed: server, tls,"),
        (
            "[log]\nlevel = \"loud\"",
            ":12:9: the value of `log.level` is not allowed; allowed: one of error, warn",
        ),
        ("[log]\nlevel = 3", ":12:9: `log.level` is an integer; allowed: one of"),
        ("sessions = \"4\"", ":11:12: `hsm.sessions` is a string; allowed: a whole number from 1 to 64"),
        ("mechanism = \"rsa\"", ":11:13: "),
        ("gcm_mechanism = 0x1088", ":11:17: the value of `hsm.gcm_mechanism` is not allowed"),
        ("sessions = 65", ":11:12: the value of `hsm.sessions` is not allowed"),
        ("sessions = -1", ":11:12: the value of `hsm.sessions` is not allowed"),
        ("module_sha256 = \"AB\"", "64 lower-case hexadecimal digits"),
        ("[metrics]\nlisten = \"0.0.0.0:9\"", "a loopback address with a port"),
        ("[audit]\ndir = \"\"", "a path that is not empty"),
        ("[hsm]\nmodule = \"x\"", ":11:"),
        ("[operators]\nname = \"a\"", "`operators` is a table; allowed: tables headed [[operators]]"),
        ("[[operators]]\ndns = \"a\"", "`operators.name` is missing"),
        ("[[operators]]\nname = \"a\"", "operator `a` needs exactly one of"),
        ("[[operators]]\nname = \"a\"\ndns = \"a\"\nemail = \"a@b\"", "operator `a` needs exactly one of"),
        (
            "[[operators]]\nname = \"a\"\ndns = \"*.b\"",
            ":13:7: operator `a`: `operators.dns` is not allowed: certificate matcher: byte 0 is '*'",
        ),
        // Well-formed for TLS, but nothing that a principal or an operator can be known by.
        (
            "[[operators]]\nname = \"a\"\nspiffe = \"spiffe://a.org\"",
            "operator `a`: `operators.spiffe` is not allowed: certificate matcher: not a complete SPIFFE id",
        ),
        (
            "[[operators]]\nname = \"a\"\nemail = \"a!b@a.org\"",
            "byte 1 is '!', which the e-mail address may not have here; allowed: an e-mail address",
        ),
        (
            "[[operators]]\nname = \"a\"\ndns = \"a\"\n[[operators]]\nname = \"a\"\ndns = \"b\"",
            "`a` stands here a second time",
        ),
        ("[log]\nlevel = ", ":12:"),
    ];
    for (extra, expected) in cases {
        let refusal = at(extra);
        assert!(refusal.contains(expected), "{extra:?} gave {refusal:?}");
        assert!(refusal.starts_with("/etc/keystead/keystead.toml"), "{refusal}");
    }
    // Dotted keys and a table within: `hsm` cannot be headed a second time, so these stand alone.
    assert!(refusal("log = 3").contains(":1:7: `log` is an integer; allowed: a table headed [log]"));
    assert!(refusal("tls.crl_files = [1]").contains("a list of paths"));
    assert!(refusal("hsm.env = { A = 1 }").contains("a table of names and texts"));
    assert!(refusal("server.data_dir = \"/d\"").contains("`tls.cert_file` is missing; it takes a path"));
}

#[test]
fn no_error_holds_a_value() {
    for text in
        ["[log]\nlevel = \"canary\"", "[hsm]\nmodule_sha256 = \"canary\"", "[server]\nnode = \"canary!\""]
    {
        assert!(!refusal(text).contains("canary"));
    }
    let refused = with_override("LOG__LEVEL", "canary").unwrap_err();
    assert!(!refused.to_string().contains("canary"));
}

#[test]
fn environment_overrides_one_key() {
    let config = with_override("LIMITS__MAX_CONNECTIONS", "7").unwrap();
    assert_eq!(config.limits.max_connections, 7);
    let config = with_override("TLS__CRL_FILES", "a.crl,/b.crl").unwrap();
    assert_eq!(config.tls.crl_files, [Path::new("/etc/keystead/a.crl"), Path::new("/b.crl")]);
    let config = with_override("HSM__TOKEN_LABEL", "other").unwrap();
    assert_eq!(config.hsm.token_label, "other");
}

#[test]
fn override_of_nothing_is_an_error() {
    for name in
        ["LIMITS__MAX_CONECTIONS", "LIMITS", "OPERATORS__NAME", "HSM__ENV", "limits__max_connections", ""]
    {
        let refused = with_override(name, "7").unwrap_err().to_string();
        assert!(refused.contains("overrides no key"), "{refused}");
        assert!(refused.contains("KEYSTEAD_SERVER__LIMITS__MAX_CONNECTIONS"), "{refused}");
    }
    let refused = with_override("LIMITS__MAX_CONNECTIONS", "07").unwrap_err().to_string();
    assert!(refused.contains("KEYSTEAD_SERVER__LIMITS__MAX_CONNECTIONS: the value of"), "{refused}");
}

#[test]
fn a_check_reads_the_certificates_and_names_key_and_line() {
    let dir = tempfile::tempdir().unwrap();
    let ca = TestCa::new("ca");
    let tls = files(dir.path(), &ca, &[&ca], &[ca.crl(&[], now() + HOUR)]);
    let file = dir.path().join("keystead.toml");
    let text =
        MINIMAL.replace("/keys/server.key", "server.key").replace("[hsm]", "crl_files = [\"0.crl\"]\n[hsm]");
    std::fs::write(&file, text).unwrap();
    let check = |environment: &Environment| {
        let error = Config::check(&file, environment).err()?;
        Some(format!("{:#}", anyhow::Error::from(error)))
    };
    let here = Environment::default();
    assert_eq!(check(&here), None);

    let says = |line: usize, key: &str, what: &str| {
        let said = check(&here).unwrap();
        let place = format!("{}:{line}:", file.display());
        assert!(said.starts_with(&place) && said.contains(key) && said.contains(what), "{said}");
        assert_eq!(said.matches(what).count(), 1, "{said}");
    };
    let put_back = |path: &Path, broken: &str, check: &dyn Fn()| {
        let good = std::fs::read_to_string(path).unwrap();
        write(path, broken);
        check();
        write(path, &good);
    };
    let leaf = |edit: fn(&mut rcgen::CertificateParams)| ca.leaf(9, edit);
    let other = leaf(|_| {});
    put_back(&tls.cert_file, "no certificate", &|| says(5, "`tls.cert_file`", "holds no certificate"));
    let old = leaf(|params| dates(params, now() - 2 * HOUR, now() - HOUR));
    put_back(&tls.cert_file, &pem("CERTIFICATE", &old.chain[0]), &|| {
        says(5, "`tls.cert_file`", "it ended at");
    });
    put_back(&tls.key_file, &other.key.serialize_pem(), &|| says(5, "`tls.cert_file`", "the key in"));
    put_back(&tls.key_file, "no key", &|| says(6, "`tls.key_file`", "a private key in PEM"));
    put_back(&tls.client_ca_file, &pem("CERTIFICATE", &other.chain[0]), &|| {
        says(7, "`tls.client_ca_file`", "not a CA certificate");
    });
    put_back(&tls.crl_files[0], "no list", &|| {
        says(8, "`tls.crl_files`", "holds no certificate revocation list");
    });
    std::fs::remove_file(&tls.key_file).unwrap();
    says(6, "`tls.key_file`", "cannot read");
    let name = format!("{OVERRIDE_PREFIX}TLS__KEY_FILE");
    let set = Environment::from_variables([(OsString::from(&name), OsString::from("elsewhere.key"))]);
    let said = check(&set).unwrap();
    assert!(said.starts_with(&format!("{name}: `tls.key_file`")), "{said}");
}

#[test]
fn missing_file_is_named() {
    let refused = Config::load(Path::new("/nonexistent/k.toml"), &Environment::default()).unwrap_err();
    assert!(refused.to_string().contains("/nonexistent/k.toml"));
}

#[test]
fn presets_fit_their_own_keys() {
    for key in keys::KEYS {
        if let keys::Preset::Text(text) = key.preset {
            assert!(key.kind.read(text).is_some(), "{}", key.full_name());
        }
    }
}

#[test]
fn description_shows_all_but_the_environment_of_the_module() {
    let text = format!("{MINIMAL}env = {{ SOFTHSM2_CONF = \"canary\" }}\n");
    let described = parse(&text).unwrap().describe().to_string();
    assert!(described.contains("hsm.env.SOFTHSM2_CONF = (set)\n"), "{described}");
    assert!(!described.contains("canary"));
    for key in keys::KEYS {
        let shown = described.contains(&format!("{} = ", key.full_name()));
        let optional =
            key.preset == keys::Preset::Absent || [keys::OPERATORS, keys::FURTHER].contains(&key.section);
        assert!(shown || optional || key.name == "crl_files", "{}", key.full_name());
    }
}

#[test]
fn documentation_lists_exactly_the_keys() {
    let text = include_str!("../../../docs/reference/configuration.md");
    let documented: BTreeSet<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`').map(|(key, _)| key.to_owned()))
        .collect();
    let keys: BTreeSet<String> = keys::KEYS.iter().map(keys::Key::full_name).collect();
    assert_eq!(documented, keys);
    for key in keys::KEYS {
        let row = format!("| `{}` | {} |", key.full_name(), preset_in_docs(key));
        assert!(text.contains(&row), "no row begins with {row}");
    }
}

fn preset_in_docs(key: &keys::Key) -> String {
    match key.preset {
        keys::Preset::Required => "required".into(),
        keys::Preset::Absent => "none".into(),
        keys::Preset::Text("") => "empty".into(),
        keys::Preset::Text(text) => format!("`{text}`"),
    }
}

#[test]
fn example_in_the_documentation_is_accepted() {
    let text = include_str!("../../../docs/reference/configuration.md");
    let example = text.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let config = parse(example).unwrap();
    assert_eq!(config.operators.len(), 2);
}
