//! The grammar of the command line. Invariant: no argument takes a secret.
//!
//! Each command keeps its own arguments beside its code in `commands`; values with a form of their own are in
//! `args::values`.

pub(crate) mod named;
pub(crate) mod span;
pub(crate) mod usage;
pub(crate) mod values;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::commands::{
    audit, ceremony, completions, creds, exec, init, keys, lease, policy, principal, role, seal_record,
    secret, share, static_role, target, unseal,
};

const EXAMPLES: &str = "\
Examples:
  export KEYSTEAD_ADDR=https://vault.internal:8200 KEYSTEAD_CACERT=ca.pem
  export KEYSTEAD_CERT=alice.pem KEYSTEAD_KEY=alice.key
  keystead status
  keystead secret put shop/db --field password
  keystead secret get shop/db --field password
  keystead exec --env PGPASSWORD=shop/db#password -- psql
  keystead creds issue shop --exec psql

Exit codes: 0 good, 1 wrong use or a local failure, 2 the server said no.";

/// Keystead: a secrets vault whose keys lie with an HSM and a quorum of people
#[derive(Debug, Parser)]
#[command(name = "keystead", version, after_help = EXAMPLES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What holds for every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Connection and output")]
pub(crate) struct Global {
    /// Where the vault listens: https://host:port, or unix:///path for the server's local socket [env: KEYSTEAD_ADDR]
    #[arg(long, global = true, value_name = "ADDRESS")]
    pub(crate) addr: Option<String>,
    /// PEM file with the CA that signs the server's certificate [env: KEYSTEAD_CACERT]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) ca_cert: Option<PathBuf>,
    /// PEM file with your client certificate [env: KEYSTEAD_CERT]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) cert: Option<PathBuf>,
    /// PEM file with the key of your client certificate [env: KEYSTEAD_KEY]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
    /// File with a token; "-" is standard input [env: KEYSTEAD_TOKEN holds the token itself]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// How long a call may take, in seconds; 10 if not given, more for what takes its time
    #[arg(long, global = true, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) timeout: Option<u64>,
    /// How to print the answer
    #[arg(long, short, global = true, value_name = "FORMAT", value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

/// How answers are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For machines: one JSON value a line.
    Json,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a new vault and its key shares
    Init(init::InitArgs),
    /// Enter a share; the vault opens with the last one needed
    Unseal(unseal::UnsealArgs),
    /// Seal the vault: requests in flight end, keys are wiped
    Seal,
    /// Show whether the vault is initialized and sealed
    Status,
    /// What a quorum of holders does with an open vault: new shares, a new PIN, auto-unseal, a new administrator
    #[command(subcommand)]
    Ceremony(ceremony::CeremonyCommand),
    /// Keep the seal record, without which a backup does not open
    #[command(subcommand)]
    SealRecord(seal_record::SealRecordCommand),
    /// Look at a share without using it
    #[command(subcommand)]
    Share(share::ShareCommand),
    /// Store and read secrets
    #[command(subcommand)]
    Secret(secret::SecretCommand),
    /// Databases in which the vault makes logins
    #[command(subcommand)]
    Target(target::TargetCommand),
    /// What one service needs in a target
    #[command(subcommand)]
    Role(role::RoleCommand),
    /// Logins that somebody else made, whose passwords the vault keeps and changes
    #[command(subcommand)]
    StaticRole(static_role::StaticRoleCommand),
    /// Get a login of a role, or of a static role
    #[command(subcommand)]
    Creds(creds::CredsCommand),
    /// See, renew and revoke the leases of logins
    #[command(subcommand)]
    Lease(lease::LeaseCommand),
    /// Say who may do what, as Cedar policies
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// See and rotate the keys behind every secret
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// Register services and operators
    #[command(subcommand)]
    Principal(principal::PrincipalCommand),
    /// Show who the server takes you for
    Whoami,
    /// Read the audit log
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Run a command with secrets in its environment
    Exec(exec::ExecArgs),
    /// Print a completion script for a shell
    Completions(completions::CompletionsArgs),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::usage::discreet;
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_grammar_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_of_the_reference_parses() {
        for line in [
            "keystead init --shares 5 --threshold 3 --operator alice=spiffe://example.org/alice --out-dir d --accept-total-loss",
            "keystead init --pin-file p --token-backup-statement backed-up",
            "keystead unseal",
            "keystead unseal --share-file a --share-file b",
            "keystead unseal --cancel",
            "keystead seal",
            "keystead --output json status",
            "keystead status -o json",
            "keystead init --out-dir d --seal-record r --accept-total-loss",
            "keystead ceremony rekey --shares 5 --threshold 3",
            "keystead ceremony change-pin --pin-file p",
            "keystead ceremony auto-unseal enable",
            "keystead ceremony auto-unseal disable",
            "keystead ceremony recover-root",
            "keystead ceremony show",
            "keystead ceremony approve",
            "keystead ceremony approve --ceremony c --share-file a --share-file b --out-dir d --seal-record r",
            "keystead ceremony cancel --ceremony c",
            "keystead seal-record export f",
            "keystead share check --share-file s",
            "keystead secret put shop/db --field password --from-file key=tls.key --expect 0",
            "keystead secret put shop/db --stdin password",
            "keystead secret put shop/db --data-file -",
            "keystead secret put shop/db --fields-file f.json --request-id a.b-1",
            "keystead secret get shop/db",
            "keystead secret get shop/db --version 3 --field password --out-file f",
            "keystead secret list",
            "keystead secret list shop",
            "keystead secret history shop/db",
            "keystead secret delete shop/db --version 1 --version 2",
            "keystead secret undelete shop/db --version 1",
            "keystead secret destroy shop/db --version 1 --yes",
            "keystead target put shop-db --host db --port 5433 --database shop --admin keystead --ca-file ca.pem --max-ttl 1d",
            "keystead target put shop-db --accept 9f2c --accept 8e1b --password-file - --server-name db --connections 8",
            "keystead target put shop-db --replace --etag e",
            "keystead target get shop-db",
            "keystead target list",
            "keystead target delete shop-db --yes",
            "keystead target check shop-db",
            "keystead target rotate shop-db",
            "keystead target setup-sql shop-db --database shop --admin keystead --role-file a.toml --role-file b.toml",
            "keystead role put shop --file shop.toml --etag e",
            "keystead role get shop",
            "keystead role list",
            "keystead role delete shop -y",
            "keystead role verify shop",
            "keystead creds issue shop",
            "keystead creds issue shop --ttl 15m --request-id a.b-1 -o json",
            "keystead creds issue shop --class fast",
            "keystead creds issue shop --no-renew --exec psql -c x --output json",
            "keystead lease list",
            "keystead lease list --target shop-db -n 3",
            "keystead lease list --due",
            "keystead lease get 0f1e2d3c4b5a69788796a5b4c3d2e1f0",
            "keystead lease renew 0f1e2d3c4b5a69788796a5b4c3d2e1f0 --ttl 1h",
            "keystead lease revoke 0f1e2d3c4b5a69788796a5b4c3d2e1f0",
            "keystead lease revoke 0f1e2d3c4b5a69788796a5b4c3d2e1f0 --force --yes",
            "keystead lease revoke --role-prefix shop- --yes",
            "keystead lease revoke --own",
            "keystead lease accept-clock --yes",
            "keystead policy put shop --file shop.cedar",
            "keystead policy get shop",
            "keystead policy list",
            "keystead policy delete shop --yes",
            "keystead policy explain service/shop secrets:read secret/shop/db",
            "keystead principal put service/shop --group apps --spiffe spiffe://example.org/shop --dns shop.internal",
            "keystead principal get service/shop",
            "keystead principal list",
            "keystead principal put service/shop --dns shop.internal --replace",
            "keystead principal disable service/shop",
            "keystead principal enable service/shop",
            "keystead principal delete service/shop",
            "keystead keys list",
            "keystead keys rotate --wait --yes",
            "keystead keys rotation",
            "keystead keys retire 9f2c81b07d1e4a66 --yes",
            "keystead whoami",
            "keystead audit tail -n 5 --follow",
            "keystead exec --env PGPASSWORD=shop/db#password -- psql -h db",
            "keystead exec --env A=shop/a --keep-vault-env -- ./deploy",
            "keystead creds issue shop --keep-vault-env --exec ./deploy",
            "keystead creds read ledger --keep-vault-env --exec ./deploy",
            "keystead completions bash",
        ] {
            parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    /// Lines of examples fit, and other text is left to the terminal's width: a paragraph is one line.
    #[test]
    fn help_wraps_well() {
        fn check(command: &clap::Command) {
            let name = command.get_name();
            let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let lines: Vec<_> = text.lines().collect();
            for (place, line) in lines.iter().enumerate() {
                let broken = |next: &&str| !next.is_empty() && !next.starts_with(' ');
                if line.starts_with(' ') {
                    assert!(line.chars().count() <= 100, "{name}: {line}");
                } else if !line.is_empty() {
                    assert!(!lines.get(place + 1).is_some_and(broken), "{name}: {line}");
                }
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn a_recipient_is_one_of_age() {
        let recipient = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa";
        let line = format!("keystead ceremony rekey --shares 2 --threshold 2 --recipient {recipient}");
        assert!(parse(&line).is_ok());
        assert!(parse(&line.replace("py7pa", "py7pb")).is_err());
        let identity = line.replace(recipient, "AGE-SECRET-KEY-1HUNTER2");
        let said = parse(&identity).unwrap_err().to_string();
        assert!(said.contains("age1") && !said.contains("HUNTER2"), "{said}");
    }

    #[test]
    fn wrong_use_is_refused() {
        for line in [
            "keystead",
            "keystead init --shares 1 --threshold 1 --accept-total-loss",
            "keystead init --shares 300",
            "keystead init --accept-total-loss --token-backup-statement cloned",
            "keystead secret put",
            "keystead secret put shop/db --data-file a --field b",
            "keystead secret put shop/db password=hunter2",
            "keystead secret undelete shop/db",
            "keystead secret destroy shop/db --yes",
            "keystead unseal --cancel --share-file a",
            "keystead unseal ks1-share-abc",
            "keystead ceremony rekey --shares 5",
            "keystead ceremony rekey --shares 5 --threshold 1",
            "keystead ceremony change-pin 1234",
            "keystead ceremony auto-unseal",
            "keystead ceremony approve ks1-share-abc",
            "keystead seal-record export",
            "keystead exec --env =shop/db -- x",
            "keystead exec --env A=shop/db",
            "keystead target put",
            "keystead target put shop-db --max-ttl 5",
            "keystead target put shop-db --password hunter2",
            "keystead target put shop-db --port 0",
            "keystead role put shop",
            "keystead creds issue",
            "keystead creds issue shop --ttl 15m --class fast",
            "keystead creds issue shop --class eternal",
            "keystead creds issue shop --no-renew",
            "keystead creds issue shop --keep-vault-env",
            "keystead creds issue shop --exec",
            "keystead lease list --role a --target b",
            "keystead lease list --role a --due",
            "keystead lease revoke",
            "keystead lease revoke 0f1e --role a",
            "keystead lease revoke --role a --own",
            "keystead lease revoke --role a --force",
            "keystead --timeout 0 whoami",
            "keystead --token kst_x whoami",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn a_value_in_the_wrong_place_is_not_repeated() {
        for option in ["--field", "--stdin"] {
            let error = parse(&format!("keystead secret put shop/db {option} password=hunter2")).unwrap_err();
            let said = error.to_string();
            assert!(said.contains("values are never arguments"), "{said}");
            assert!(!said.contains("hunter2"), "{said}");
        }
        for line in ["keystead secret put shop/db password=hunter2", "keystead unseal hunter2"] {
            let said = discreet(parse(line).unwrap_err()).to_string();
            assert!(said.contains("unexpected argument"), "{said}");
            assert!(!said.contains("hunter2"), "{said}");
        }
        for line in ["keystead ceremony change-pin hunter2", "keystead ceremony approve hunter2"] {
            let said = discreet(parse(line).unwrap_err()).to_string();
            assert!(said.contains("unexpected argument") && !said.contains("hunter2"), "{said}");
        }
        assert!(discreet(parse("keystead seal --colour").unwrap_err()).to_string().contains("--colour"));
    }
}
