//! Logins that somebody else made, whose passwords the vault keeps.
//!
//! Invariant: a login changes its own password, on a session of its own; the admin login has no part in it and needs no right
//! over it. The server is given a verifier, never the password, and as a parameter, so that no log holds it as a statement.

use deadpool_postgres::ClientWrapper;
use keystead_crypto::secret::SecretBytes;
use keystead_domain::rights::Right;

use super::error::Failure;
use super::logins::Verifier;
use crate::statements::identifier;

/// Attributes, and memberships by which a login reaches the server's own files and programs.
const EXCESS: &str = "SELECT array_remove(ARRAY[CASE WHEN r.rolsuper THEN 'SUPERUSER' END, \
      CASE WHEN r.rolcreaterole THEN 'CREATEROLE' END, CASE WHEN r.rolcreatedb THEN 'CREATEDB' END, \
      CASE WHEN r.rolreplication THEN 'REPLICATION' END, CASE WHEN r.rolbypassrls THEN 'BYPASSRLS' END], NULL) \
    || ARRAY(SELECT 'MEMBER of ' || g.rolname FROM pg_roles g WHERE NOT r.rolsuper AND g.rolname IN \
      ('pg_execute_server_program', 'pg_write_server_files', 'pg_read_server_files', 'pg_write_all_data', 'pg_read_all_data') \
      AND pg_has_role(r.oid, g.oid, 'MEMBER')) \
    FROM pg_roles r WHERE r.rolname = session_user";
const KEEP: &str = "SELECT set_config('keystead.verifier', $1, true)";
const CHANGE: &str = "DO $$ BEGIN EXECUTE format('ALTER ROLE CURRENT_USER PASSWORD %L', \
    current_setting('keystead.verifier')); END $$";

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
pub(super) async fn change(client: &mut ClientWrapper, new: &SecretBytes) -> Result<(), Failure> {
    let verifier = Verifier::of(new).await?;
    // Whatever the login's own settings say about transactions.
    let transaction = client.build_transaction().read_only(false).start().await?;
    transaction.query_one(KEEP, &[&verifier]).await?;
    transaction.batch_execute(CHANGE).await?;
    transaction.commit().await?;
    Ok(())
}
