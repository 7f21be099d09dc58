//! Role files: both forms say the same, a role comes back as it went, errors name their place.

use super::*;

const TOML: &str = r#"target = "shop-db"
default_ttl = "15m"
max_ttl = "1d"
max_live = 50
on_excess = "warn"

[postgres]
schemas = ["shop"]
statement_timeout = "30s"
connection_limit = 5

[[postgres.tables]]
schema = "shop"
tables = ["orders", "Order Lines"]
columns = ["id"]
privileges = ["SELECT", "insert"]

[[postgres.tables]]
schema = "shop"
tables = "log_*"
privileges = ["INSERT"]
future_of = "shop_owner"

[[postgres.sequences]]
schema = "shop"
sequences = ["orders_id_seq"]
privileges = ["USAGE"]

[[postgres.routines]]
schema = "shop"
name = "total"
arguments = "integer, integer"
"#;

const JSON: &str = r#"{"target": "shop-db", "default_ttl": "900s", "max_ttl": "24h", "max_live": 50, "on_excess": "warn",
"postgres": {"schemas": ["shop"], "statement_timeout": "30s", "connection_limit": 5,
"tables": [{"schema": "shop", "tables": ["orders", "Order Lines"], "columns": ["id"], "privileges": ["SELECT", "INSERT"]},
{"schema": "shop", "tables": "log_*", "privileges": ["INSERT"], "future_of": "shop_owner"}],
"sequences": [{"schema": "shop", "sequences": ["orders_id_seq"], "privileges": ["USAGE"]}],
"routines": [{"schema": "shop", "name": "total", "arguments": "integer, integer"}]}}
"#;

fn read(text: &str) -> Result<RoleFile, CliError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("role");
    std::fs::write(&path, text).unwrap();
    RoleFile::read(&path)
}

#[test]
fn toml_and_json_say_the_same_and_a_role_comes_back_as_it_went() {
    let role = read(TOML).unwrap();
    assert_eq!(read(JSON).unwrap(), role);
    let wire = role.clone().into_wire("shop".into(), "e1".into());
    assert_eq!((wire.name.as_str(), wire.etag.as_str(), wire.max_live), ("shop", "e1", 50));
    assert_eq!(wire.default_ttl.unwrap().seconds, 900);
    let back = RoleFile::from_wire(&wire).unwrap();
    assert_eq!(back, role);
    assert_eq!(read(&back.to_toml().unwrap()).unwrap(), role);
}

#[test]
fn what_is_wrong_is_named_with_line_and_key() {
    let change = |from: &str, to: &str| {
        assert!(TOML.contains(from), "{from}");
        TOML.replacen(from, to, 1)
    };
    for (text, line, key, said) in [
        (change("default_ttl", "defualt_ttl"), 2, "defualt_ttl", "unknown field"),
        (change("15m", "15"), 2, "default_ttl", "1h30m or 7d"),
        (change("max_live = 50", "max_live = \"50\""), 4, "max_live", "expected u32"),
        (change("\"warn\"", "\"ignore\""), 5, "on_excess", "one of refuse, warn"),
        (change("\"insert\"", "\"SELCT\""), 16, "postgres.tables[0].privileges[1]", "one of SELECT, INSERT"),
        (
            change("tables = \"log_*\"", "tables = 7"),
            20,
            "postgres.tables[1].tables",
            "a list of names, or one pattern",
        ),
        (change("future_of", "future"), 22, "postgres.tables[1].future", "unknown field"),
        (change("target = \"shop-db\"\n", ""), 1, "", "missing field `target`"),
        (change("\"shop-db\"", "\"shop-db"), 1, "", ""),
    ] {
        match read(&text) {
            Err(CliError::RoleFile { line: found, key: named, why, .. }) => {
                assert_eq!((found, named.as_str()), (line, key), "{why}");
                assert!(why.contains(said), "{why}");
            }
            other => panic!("{said}: {other:?}"),
        }
    }
    for (from, to, line, key) in [
        ("\"INSERT\"]}", "\"SELCT\"]}", 3, "postgres.tables[0].privileges[1]"),
        ("\"max_live\": 50", "\"max_alive\": 50", 1, "max_alive"),
    ] {
        let error = read(&JSON.replacen(from, to, 1)).unwrap_err();
        let CliError::RoleFile { line: found, key: named, .. } = &error else { panic!("{error:?}") };
        assert_eq!((*found, named.as_str()), (line, key), "{error}");
        assert!(!error.to_string().contains("column"), "{error}");
    }
    assert!(matches!(read(&format!("{JSON}x")), Err(CliError::RoleFile { line: 7, .. })));
}

#[test]
fn a_role_of_a_newer_server_is_not_shown_as_less_than_it_is() {
    let mut wire = read(TOML).unwrap().into_wire("shop".into(), String::new());
    wire.declaration = None;
    assert!(matches!(RoleFile::from_wire(&wire), Err(CliError::UnknownKind { .. })));
    let mut wire = read(TOML).unwrap().into_wire("shop".into(), String::new());
    if let Some(v1::role::Declaration::Postgres(role)) = &mut wire.declaration {
        role.tables[0].privileges.push(99);
    }
    assert!(matches!(RoleFile::from_wire(&wire), Err(CliError::UnknownKind { .. })));
}
