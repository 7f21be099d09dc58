//! `keystead-benches startup`: how long a server takes from unsealing to its first answer, and how much memory it has then, with
//! many live leases in its store.
//!
//! Invariant: the server is the real program, started on a store that another one filled and closed. Absent: a target, so nothing
//! is compared with a database; and a cold page cache.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use keystead_client::LeaseSelector;
use keystead_tests::{ServerProcess, TestVault};
use tokio::time::Instant;

/// A server with so much to look after has done so once by then.
const LATER: Duration = Duration::from_secs(30);

/// What one start came to.
struct Start {
    listening: Duration,
    answered: Duration,
    resident_kib: u64,
}

/// Measures, and says what came of it.
pub(crate) async fn run(leases: &[usize], starts: u8, progress: impl Fn(&str)) -> Result<String> {
    let mut out = format!("medians of {starts} starts:\n");
    for count in leases {
        progress(&format!("filling a store with {count} leases"));
        let vault = TestVault::start().await;
        let began = Instant::now();
        vault.vault().unsealed()?.plant_leases(*count).await?;
        let filled = began.elapsed();
        let mut server = vault.into_process().await;
        let mut found = Vec::new();
        for start in 0..starts {
            progress(&format!("{count} leases, start {start}"));
            if start > 0 {
                server.terminate().await;
            }
            found.push(once(&mut server).await?);
        }
        tokio::time::sleep(LATER).await;
        let later = resident_kib(server.id())?;
        let line = format!(
            "  {count:>8} leases ({} MiB of store, filled in {:.0} s): listening {:.0} ms after start, first answer {:.0} ms after \
             the first share; resident {} MiB then, {} MiB {} s later",
            size_of(&server.data_dir().join("store"))? >> 20,
            filled.as_secs_f64(),
            millis(median(&found, |start| start.listening)),
            millis(median(&found, |start| start.answered)),
            median(&found, |start| start.resident_kib) >> 10,
            later >> 10,
            LATER.as_secs(),
        );
        // The next may take long.
        progress(&line);
        writeln!(out, "{line}")?;
        server.terminate().await;
    }
    Ok(out)
}

async fn once(server: &mut ServerProcess) -> Result<Start> {
    let began = Instant::now();
    server.start_again().await;
    let listening = began.elapsed();
    let began = Instant::now();
    server.unseal().await;
    server.operator().leases().list(&LeaseSelector::Due).next().await?;
    Ok(Start { listening, answered: began.elapsed(), resident_kib: resident_kib(server.id())? })
}

fn median<T: Ord + Copy + Default>(starts: &[Start], of: impl Fn(&Start) -> T) -> T {
    let mut values: Vec<T> = starts.iter().map(of).collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1000.0
}

fn resident_kib(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.with_context(|| format!("{path} has no VmRSS"))
}

fn size_of(dir: &Path) -> Result<u64> {
    let mut bytes = 0_u64;
    for entry in fs::read_dir(dir)? {
        bytes = bytes.saturating_add(entry?.metadata()?.len());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory() {
        assert!(resident_kib(std::process::id()).unwrap() > 1_000);
    }
}
