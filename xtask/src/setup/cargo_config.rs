//! The clone's git-ignored `.cargo/config.toml`: where RocksDB's library is, and the `cargo xtask` alias.
//!
//! Invariant: a file that somebody else wrote is never overwritten; what is missing in it is told. It lets a
//! plain `cargo test` and an editor link the same library as we do.

use std::{fs, io::ErrorKind};

use anyhow::{Context, Result, bail};

use super::rocksdb::Library;
use crate::workspace::Workspace;

const FIRST_LINE: &str = "# Written by `cargo xtask setup`, which writes it again when it changes.";

/// Writes it, if it is not there as it should be.
pub(crate) fn write(workspace: &Workspace, library: &Library) -> Result<()> {
    let directory =
        library.directory().to_str().context("the cache's path is no UTF-8, which cargo demands")?;
    let wanted = content(directory);
    let path = workspace.root().join(".cargo/config.toml");
    match fs::read_to_string(&path) {
        Ok(there) if there == wanted || (!there.starts_with(FIRST_LINE) && serves(&there, &wanted)) => {
            return Ok(());
        }
        Ok(there) if !there.starts_with(FIRST_LINE) => {
            bail!("{} is not ours and is left alone; add to it, or move it away:\n{wanted}", path.display())
        }
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot read {}", path.display()));
        }
        _ => {}
    }
    fs::create_dir_all(workspace.root().join(".cargo"))?;
    let new = path.with_extension(format!("toml.{}", std::process::id()));
    fs::write(&new, wanted).with_context(|| format!("cannot write {}", new.display()))?;
    fs::rename(&new, &path).with_context(|| format!("cannot write {}", path.display()))
}

/// Whether somebody's own file has our settings of the environment among its lines.
fn serves(there: &str, wanted: &str) -> bool {
    let mut settings = wanted.lines().filter(|line| line.starts_with("ROCKSDB_"));
    settings.all(|setting| there.lines().any(|line| line.trim() == setting))
}

fn content(directory: &str) -> String {
    let directory = directory.replace('\\', "\\\\").replace('"', "\\\"");
    format!(
        "{FIRST_LINE}\n\n[alias]\nxtask = \"run --quiet --locked --package xtask --\"\n\n\
         [env]\nROCKSDB_LIB_DIR = \"{directory}\"\nROCKSDB_STATIC = \"1\"\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_with_quotes_stays_one_value() {
        assert!(content("/home/a \"b\"").contains(r#"ROCKSDB_LIB_DIR = "/home/a \"b\"""#));
    }

    #[test]
    fn somebodys_own_file_serves_once_our_settings_were_added_to_it() {
        let own =
            |directory: &str| format!("[build]\njobs = 1\n{}", content(directory).replace(FIRST_LINE, ""));
        assert!(serves(&own("/a"), &content("/a")));
        assert!(!serves(&own("/old"), &content("/a")));
        assert!(!serves("[build]\njobs = 1\n", &content("/a")));
    }
}
