//! A service with a pool of connections to PostgreSQL whose login is replaced while it works.
//!
//! `KEYSTEAD_ADDR`, `KEYSTEAD_CACERT`, `KEYSTEAD_CERT` and `KEYSTEAD_KEY` say where the vault is and who calls;
//! the arguments are a role, and the SQL that is to be run over and over until Ctrl-C:
//! `cargo run -p keystead-client --example postgres_pool -- orders-rw 'SELECT count(*) FROM shop.orders'`.
//! `pool.rs` is to be copied; it is what the tests run under load.

mod pool;

use std::io::Write;
use std::time::Duration;

use keystead_client::{Builder, KeeperEvent};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(role), Some(query)) = (arguments.next(), arguments.next()) else {
        return Err("say a role and a query".into());
    };
    let vault = Builder::from_env()?.build().await?;
    let kept = vault
        .credentials()
        .keep(role)
        .grace(Duration::from_secs(30)) // longer than anybody keeps a connection
        .on_event(|event| match event {
            KeeperEvent::Failed { .. } | KeeperEvent::Lost { .. } => say(&format!("{event}")),
            _ => {}
        })
        .await?;
    let pool = pool::pool(&kept, 4)?;
    let work = async {
        loop {
            let rows = pool.get().await?.query(&query, &[]).await?.len();
            say(&format!("{rows} rows"));
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let worked: Result<(), Box<dyn std::error::Error>> = tokio::select! {
        worked = work => worked,
        _ = tokio::signal::ctrl_c() => Ok(()),
    };
    pool.close();
    kept.shutdown().await?; // the login is gone
    worked
}

fn say(line: &str) {
    // Nobody may be listening any more.
    writeln!(std::io::stdout(), "{line}").ok();
}
