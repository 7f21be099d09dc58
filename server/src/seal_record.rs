//! `keystead-server seal-record restore`: an exported seal record goes into the store of a stopped server. Invariant: what
//! changes is printed and confirmed before it does. Absent: whether it may, which is the core's to say.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use keystead_core::seal::restoring::{RestoreError, Restoring};
use keystead_core::vault::Vault;
use serde_json::json;

use crate::Built;
use crate::config::Config;
use crate::output::Output;
use crate::recover::open_stopped;

/// More than any seal record.
const MAX_BYTES: u64 = 256 * 1024;

/// What to put where.
#[derive(Debug, clap::Args)]
pub struct RestoreArguments {
    /// The seal record, as `keystead seal-record export` or a ceremony wrote it.
    file: PathBuf,
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Does it without asking.
    #[arg(long)]
    yes: bool,
    /// How to print what changes.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

impl RestoreArguments {
    /// The configuration file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Restores it, and says whether all of it is done and recorded.
    ///
    /// # Errors
    /// What keeps the record from being restored, in words.
    pub async fn run(&self, config: Config, built: Built) -> anyhow::Result<bool> {
        let record = self.read()?;
        let parts = open_stopped(&config, built).await?;
        let (storage, audit) = (Arc::clone(&parts.storage), Arc::clone(&parts.audit));
        let vault = Vault::new(parts);
        let restored = self.restore(&vault, &record).await;
        drop(vault);
        let closed = storage.close().await;
        audit.close();
        let restored = restored?;
        closed?;
        Ok(restored)
    }

    fn read(&self) -> anyhow::Result<Vec<u8>> {
        let unreadable = || format!("{} cannot be read", self.file.display());
        let mut record = Vec::new();
        let file = File::open(&self.file).with_context(unreadable)?;
        file.take(MAX_BYTES.saturating_add(1)).read_to_end(&mut record).with_context(unreadable)?;
        if u64::try_from(record.len()).map_or(true, |length| length > MAX_BYTES) {
            bail!("{} is too long for a seal record; is this the right file?", self.file.display());
        }
        Ok(record)
    }

    async fn restore(&self, vault: &Vault, record: &[u8]) -> anyhow::Result<bool> {
        let restoring = vault.look_at_seal_record(record).await.map_err(told)?;
        if restoring.differences().is_empty() {
            self.print(&restoring, false)?;
            return Ok(true);
        }
        if self.output == Output::Table {
            self.print(&restoring, false)?;
        }
        if !self.yes && !confirmed()? {
            bail!("not confirmed; nothing was changed");
        }
        let unrecorded = vault.restore_seal_record(&restoring).await.map_err(told)?;
        match self.output {
            Output::Json => self.print(&restoring, true)?,
            Output::Table => writeln!(
                io::stdout(),
                "The seal record is in the store. The vault is sealed: unseal it with the shares of its epoch."
            )?,
        }
        if let Some(error) = &unrecorded {
            writeln!(
                io::stderr(),
                "the seal record is restored, but the audit log could not record that: {error}"
            )?;
        }
        Ok(unrecorded.is_none())
    }

    fn print(&self, restoring: &Restoring, restored: bool) -> anyhow::Result<()> {
        let mut out = io::stdout().lock();
        match self.output {
            Output::Json => {
                let differences = restoring.differences().iter().map(|difference| {
                    json!({ "what": difference.what, "store": difference.store, "record": difference.record })
                });
                let printed = json!({
                    "vault": restoring.vault(),
                    "file": self.file.display().to_string(),
                    "changes": differences.collect::<Vec<_>>(),
                    "remarks": restoring.remarks(),
                    "restored": restored,
                });
                serde_json::to_writer_pretty(&mut out, &printed)?;
                writeln!(out)?;
            }
            Output::Table => table(&mut out, &self.file, restoring)?,
        }
        Ok(())
    }
}

fn table(out: &mut impl Write, file: &Path, restoring: &Restoring) -> io::Result<()> {
    writeln!(out, "vault  {}", restoring.vault())?;
    writeln!(out, "file   {}", file.display())?;
    if restoring.differences().is_empty() {
        return writeln!(out, "The store has this seal record already; nothing was changed.");
    }
    let rows: Vec<[String; 3]> = restoring
        .differences()
        .iter()
        .map(|one| [&one.what, &one.store, &one.record].map(|text| text.escape_debug().to_string()))
        .collect();
    let head = ["changes", "in the store", "in the file"].map(str::to_owned);
    let width = |column: usize| {
        let all = rows.iter().chain([&head]).filter_map(|row| row.get(column));
        all.map(|text| text.chars().count()).max().unwrap_or(0)
    };
    let (first, second) = (width(0), width(1));
    writeln!(out)?;
    for [what, store, record] in std::iter::once(&head).chain(&rows) {
        writeln!(out, "{what:first$}  {store:second$}  {record}")?;
    }
    writeln!(out)?;
    for remark in restoring.remarks() {
        writeln!(out, "{remark}")?;
    }
    Ok(())
}

/// Asks whoever sits there.
fn confirmed() -> anyhow::Result<bool> {
    if !io::stdin().is_terminal() {
        bail!("there is nobody to ask; add --yes once you have read what changes. Nothing was changed");
    }
    write!(io::stderr(), "Put this seal record into the store? Type yes: ")?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(answer.trim() == "yes")
}

fn told(error: RestoreError) -> anyhow::Error {
    let reason = error.reason();
    anyhow!("{:#} [{reason}]", anyhow::Error::from(error))
}
