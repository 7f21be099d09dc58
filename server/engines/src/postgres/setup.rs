//! The statements that a database administrator pastes once: the functions that the vault calls, and who may call them.
//!
//! Invariant: the admin login has no attribute and no right but to call these functions. They run as a role that nobody can
//! log in as (`CREATEROLE`, `pg_signal_backend`), take only names with this vault's mark, quote everything, and look names up in
//! `pg_catalog` alone. What that role may grant is the ceiling of everything that the vault can ever give.

use std::fmt::Write as _;

use keystead_domain::VaultId;
use keystead_domain::rights::postgres::{Objects, PgName, PostgresRole};

use super::names::Names;
use crate::statements::{dollar_quoted, identifier, literal};

/// One function of the set-up.
pub(super) struct Function {
    /// Its name in the vault's schema.
    pub(super) name: &'static str,
    pub(super) arguments: &'static str,
    returns: &'static str,
    /// Whether it runs as the role that may make logins, or as its caller.
    pub(super) definer: bool,
    body: &'static str,
}

impl Function {
    /// Its body as the server keeps it (`pg_proc.prosrc`).
    pub(super) fn source(&self, names: &Names) -> String {
        let body = self.body.replace("@prefix@", names.prefix()).replace("@schema@", names.schema());
        format!("\n{body}")
    }
}

pub(super) const FUNCTIONS: [Function; 8] = [
    Function {
        name: "issue",
        arguments: "login text, grp text, verifier text, lasts_ms bigint, connections integer, path text[], timeout_s integer",
        returns: "void",
        definer: true,
        body: include_str!("setup/issue.sql"),
    },
    Function {
        name: "renew",
        arguments: "login text, lasts_ms bigint",
        returns: "void",
        definer: true,
        body: include_str!("setup/renew.sql"),
    },
    Function {
        name: "forbid",
        arguments: "login text",
        returns: "boolean",
        definer: true,
        body: include_str!("setup/forbid.sql"),
    },
    Function {
        name: "remove",
        arguments: "login text, grp text, reassign boolean",
        returns: "void",
        definer: true,
        body: include_str!("setup/remove.sql"),
    },
    Function {
        name: "define",
        arguments: "grp text",
        returns: "boolean",
        definer: true,
        body: include_str!("setup/define.sql"),
    },
    Function {
        name: "give",
        arguments: "grp text, take_away boolean, kind text, schema_name text, object_name text, parts text[], privileges text[]",
        returns: "text",
        definer: true,
        body: include_str!("setup/grant.sql"),
    },
    Function {
        name: "undefine",
        arguments: "grp text",
        returns: "boolean",
        definer: true,
        body: include_str!("setup/undefine.sql"),
    },
    Function {
        name: "set_password",
        arguments: "verifier text",
        returns: "void",
        definer: false,
        body: include_str!("setup/password.sql"),
    },
];

/// The role that the functions run as. What it may grant is the ceiling of what the vault can give.
pub fn owner_role(vault: VaultId, database: &PgName) -> String {
    Names::new(vault, database).owner().to_owned()
}

/// How every login and group of the vault in a database begins.
pub fn mark(vault: VaultId, database: &PgName) -> String {
    Names::new(vault, database).prefix().to_owned()
}

/// The statements that make `database` a target: run by a superuser, in that database. Pasting them again changes nothing,
/// and brings an older set-up up to date. The admin login gets no password here (`\password` in psql sets one).
pub fn setup_script(vault: VaultId, database: &PgName, admin: &PgName) -> String {
    let names = Names::new(vault, database);
    let (schema, owner) = (identifier(names.schema()), identifier(names.owner()));
    let mut script = head(&names, database, admin);
    for function in &FUNCTIONS {
        // A String takes everything.
        let _ = write!(
            script,
            "\nCREATE FUNCTION {schema}.{name}({arguments}) RETURNS {returns}\n\
             LANGUAGE plpgsql SECURITY {security} SET search_path = pg_catalog, pg_temp AS {source};\n\
             ALTER FUNCTION {schema}.{name} OWNER TO {owner};\n",
            name = function.name,
            arguments = function.arguments,
            returns = function.returns,
            security = if function.definer { "DEFINER" } else { "INVOKER" },
            source = dollar_quoted(&function.source(&names)),
        );
    }
    let (database, admin) = (database.quoted(), admin.quoted());
    let _ = write!(
        script,
        "\nREVOKE ALL ON SCHEMA {schema} FROM PUBLIC;\n\
         REVOKE ALL ON ALL FUNCTIONS IN SCHEMA {schema} FROM PUBLIC;\n\
         GRANT USAGE ON SCHEMA {schema} TO {admin};\n\
         GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA {schema} TO {admin};\n\
         GRANT CONNECT ON DATABASE {database} TO {admin};\n\
         GRANT CONNECT ON DATABASE {database} TO {owner} WITH GRANT OPTION;\n\
         COMMIT;\n"
    );
    script
}

fn head(names: &Names, database: &PgName, admin: &PgName) -> String {
    let (owner, owner_text) = (identifier(names.owner()), literal(names.owner()));
    let (schema, schema_text) = (identifier(names.schema()), literal(names.schema()));
    let (admin, admin_text) = (admin.quoted(), literal(admin.as_str()));
    let (prefix, database) = (literal(names.prefix()), literal(database.as_str()));
    let roles = dollar_quoted(&format!(
        "\nDECLARE\n  above name;\n  below name;\n\
         BEGIN\n  \
           IF pg_catalog.current_database() <> {database} THEN\n    \
             RAISE EXCEPTION 'these statements are for another database; connect to it first';\n  \
           END IF;\n  \
           -- Whoever is a member of the owner has its rights, and it has those of what it is a member of.\n  \
           IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = {owner_text}) THEN\n    \
             CREATE ROLE {owner} NOLOGIN CREATEROLE;\n  \
           END IF;\n  \
           IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = {admin_text}) THEN\n    \
             CREATE ROLE {admin} LOGIN;\n  \
           END IF;\n  \
           IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = {admin_text}\n      \
               AND (rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls)) THEN\n    \
             RAISE EXCEPTION 'the admin login has rights of its own; choose a login that the vault has to itself';\n  \
           END IF;\n  \
           FOR above, below IN SELECT g.rolname, l.rolname FROM pg_catalog.pg_auth_members m\n      \
               JOIN pg_catalog.pg_roles g ON g.oid = m.roleid JOIN pg_catalog.pg_roles l ON l.oid = m.member\n      \
               WHERE g.rolname = {owner_text} OR l.rolname = {owner_text} AND g.rolname <> 'pg_signal_backend'\n      \
                 AND NOT pg_catalog.starts_with(g.rolname, {prefix}) LOOP\n    \
             EXECUTE pg_catalog.format('REVOKE %I FROM %I', above, below);\n  \
           END LOOP;\n\
         END\n"
    ));
    let turn = literal(&format!("{schema}.turn"));
    let older = dollar_quoted(&format!(
        "\nDECLARE\n  old regprocedure;\n  other text;\n\
         BEGIN\n  \
           FOR other IN SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END\n      \
               FROM pg_catalog.pg_namespace n, pg_catalog.aclexplode(n.nspacl) a\n      \
               WHERE n.nspname = {schema_text} AND a.grantee <> n.nspowner LOOP\n    \
             EXECUTE pg_catalog.format('REVOKE ALL ON SCHEMA %I FROM %s CASCADE', {schema_text}, other);\n  \
           END LOOP;\n  \
           IF pg_catalog.to_regclass({turn}) IS NOT NULL THEN\n    \
             DROP TABLE {schema}.turn;\n  \
           END IF;\n  \
           FOR old IN SELECT p.oid FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace\n      \
               WHERE n.nspname = {schema_text} LOOP\n    \
             EXECUTE pg_catalog.format('DROP ROUTINE %s', old);\n  \
           END LOOP;\n\
         END\n"
    ));
    format!(
        "-- Keystead: the functions by which a vault makes and removes logins in this database. Its mark here is {tag}.\n\
         BEGIN;\n\
         DO {roles};\n\
         GRANT pg_signal_backend TO {owner};\n\
         CREATE SCHEMA IF NOT EXISTS {schema};\n\
         -- Somebody may have made it before, and its owner could change what is in it.\n\
         ALTER SCHEMA {schema} OWNER TO {owner};\n\
         DO {older};\n\
         -- What whoever defines a group locks.\n\
         CREATE TABLE {schema}.turn ();\n\
         ALTER TABLE {schema}.turn OWNER TO {owner};\n",
        tag = names.tag(),
    )
}

/// The statements that let the vault give what a role declares, for a person to adapt: together, over all roles, they
/// are the ceiling. A pattern becomes all tables of its schema that are there now.
pub fn ceiling_statements(vault: VaultId, database: &PgName, role: &PostgresRole) -> Vec<String> {
    let owner = identifier(Names::new(vault, database).owner());
    let give = |what: String| format!("GRANT {what} TO {owner} WITH GRANT OPTION;");
    let mut statements: Vec<String> =
        role.schemas.iter().map(|schema| give(format!("USAGE ON SCHEMA {}", schema.quoted()))).collect();
    for grant in &role.tables {
        let words: Vec<&str> = grant.privileges.iter().map(|privilege| privilege.as_str()).collect();
        let schema = grant.schema.quoted();
        let columns: Vec<String> = grant.columns.iter().map(PgName::quoted).collect();
        let part = if columns.is_empty() { String::new() } else { format!(" ({})", columns.join(", ")) };
        let words = words.iter().map(|word| format!("{word}{part}")).collect::<Vec<_>>().join(", ");
        match &grant.tables {
            Objects::Named(tables) => statements.extend(
                tables.iter().map(|table| give(format!("{words} ON TABLE {schema}.{}", table.quoted()))),
            ),
            Objects::Matching(_) => {
                statements.push(give(format!("{words} ON ALL TABLES IN SCHEMA {schema}")));
            }
        }
        if let Some(maker) = &grant.future_of {
            let give = give(format!("{words} ON TABLES"));
            let maker = maker.quoted();
            statements.push(format!("ALTER DEFAULT PRIVILEGES FOR ROLE {maker} IN SCHEMA {schema} {give}"));
        }
    }
    for grant in &role.sequences {
        let words: Vec<&str> = grant.privileges.iter().map(|privilege| privilege.as_str()).collect();
        let (words, schema) = (words.join(", "), grant.schema.quoted());
        match &grant.sequences {
            Objects::Named(sequences) => statements.extend(
                sequences.iter().map(|name| give(format!("{words} ON SEQUENCE {schema}.{}", name.quoted()))),
            ),
            Objects::Matching(_) => {
                statements.push(give(format!("{words} ON ALL SEQUENCES IN SCHEMA {schema}")));
            }
        }
    }
    statements.extend(role.routines.iter().map(|routine| {
        let (schema, name) = (routine.schema.quoted(), routine.name.quoted());
        give(format!("EXECUTE ON ROUTINE {schema}.{name}({})", routine.arguments))
    }));
    statements
}
