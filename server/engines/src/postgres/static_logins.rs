//! Logins that somebody else made, whose passwords the vault keeps.
//!
//! Invariant: a login changes its own password and no other's, whatever role its settings give its sessions; the admin login has
//! no part in it and needs no right over it. The server is given a verifier, never the password, as a parameter, and does not
//! log the statement that has it, not even when that fails.

use deadpool_postgres::ClientWrapper;
use keystead_crypto::secret::SecretBytes;
use keystead_domain::rights::Right;

use super::error::Failure;
use super::logins::Verifier;
use crate::statements::identifier;

/// Attributes of the login, and of every role that it could become; and memberships by which it reaches the server's own
/// files and programs, or all data.
const EXCESS: &str = "SELECT ARRAY( \
      SELECT a.word || CASE WHEN g.oid = r.oid THEN '' ELSE ' through ' || quote_ident(g.rolname) END \
      FROM pg_roles g, LATERAL (VALUES ('SUPERUSER', g.rolsuper), ('CREATEROLE', g.rolcreaterole), \
        ('CREATEDB', g.rolcreatedb), ('REPLICATION', g.rolreplication), ('BYPASSRLS', g.rolbypassrls)) AS a (word, given) \
      WHERE a.given AND (g.oid = r.oid OR (NOT r.rolsuper AND pg_has_role(r.oid, g.oid, 'MEMBER'))) \
      UNION ALL SELECT 'MEMBER of ' || g.rolname FROM pg_roles g WHERE NOT r.rolsuper AND g.rolname IN \
        ('pg_execute_server_program', 'pg_write_server_files', 'pg_read_server_files', 'pg_write_all_data', 'pg_read_all_data') \
        AND pg_has_role(r.oid, g.oid, 'MEMBER') ORDER BY 1) \
    FROM pg_roles r WHERE r.rolname = session_user";
/// A login's settings may begin its sessions as another role, whose password is not meant.
const OWN: &str = "SET LOCAL ROLE NONE";
const KEEP: &str = "SELECT set_config('keystead.verifier', $1, true), session_user::text";
/// Raised anew, an error has no statement in its context.
const CHANGE: &str = "DO $$ BEGIN \
      EXECUTE format('ALTER ROLE %I PASSWORD %L', session_user, current_setting('keystead.verifier')); \
    EXCEPTION WHEN OTHERS THEN RAISE EXCEPTION USING ERRCODE = SQLSTATE, MESSAGE = SQLERRM; END $$";

/// What a login can do that no login of a service needs.
pub(super) async fn excess(client: &ClientWrapper, login: &str) -> Result<Vec<Right>, Failure> {
    let found: Vec<String> = client.query_one(EXCESS, &[]).await?.try_get(0)?;
    let object = format!("role {}", identifier(login));
    Ok(found
        .into_iter()
        .map(|privilege| Right { object: object.clone(), privilege, through: None })
        .collect())
}

/// Gives the login of this session another password.
pub(super) async fn change(
    client: &mut ClientWrapper,
    login: &str,
    new: &SecretBytes,
) -> Result<(), Failure> {
    let verifier = Verifier::of(new).await?;
    // Whatever the login's own settings say about transactions.
    let transaction = client.build_transaction().read_only(false).start().await?;
    transaction.batch_execute(OWN).await?;
    let session: String = transaction.query_one(KEEP, &[&verifier]).await?.try_get(1)?;
    if session != login {
        return Err(Failure::Refused(format!("the server takes it for {}", identifier(&session))));
    }
    transaction.batch_execute(CHANGE).await?;
    transaction.commit().await?;
    Ok(())
}
