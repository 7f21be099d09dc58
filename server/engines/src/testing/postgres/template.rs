//! The initialized cluster that others are copied from.
//!
//! Invariant: it appears whole, by a rename; one that somebody else owns is not used.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{ServerError, UNPRIVILEGED, give, in_file, is_root, run, unprivileged};

/// Passwords over TLS for everybody; the socket lies in a directory that is closed to others.
const HBA: &str = "local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n";

/// Its directory, made now if it is not there.
pub(super) fn ready(programs: &Path) -> Result<PathBuf, ServerError> {
    let user = if is_root() { UNPRIVILEGED } else { rustix::process::geteuid().as_raw() };
    let version = run(Command::new(programs.join("postgres")).arg("-V"))?;
    let version = version.split_whitespace().nth(2).unwrap_or("unknown");
    let place = std::env::temp_dir().join(format!("keystead-postgres-{version}-{user}"));
    if !place.exists() {
        make(programs, &place)?;
    }
    match fs::symlink_metadata(&place) {
        Ok(data) if data.is_dir() && data.uid() == user => Ok(place),
        Ok(_) => Err(ServerError::Program {
            program: place.display().to_string(),
            said: "somebody else made it".to_owned(),
        }),
        Err(source) => Err(ServerError::File { path: place, source }),
    }
}

fn make(programs: &Path, place: &Path) -> Result<(), ServerError> {
    let parent = place.parent().unwrap_or(Path::new("/tmp"));
    let staged =
        tempfile::Builder::new().prefix("keystead-postgres-").tempdir_in(parent).map_err(in_file(parent))?;
    let staged = staged.keep();
    give(&staged)?;
    let mut initdb = Command::new(programs.join("initdb"));
    initdb.arg("-D").arg(&staged);
    initdb.args([
        "--username=postgres",
        "--auth=trust",
        "--no-sync",
        "--locale=C",
        "--encoding=UTF8",
        "--no-instructions",
    ]);
    initdb.env_clear().env("LC_ALL", "C").env("PATH", "/usr/bin:/bin");
    unprivileged(&mut initdb);
    run(&mut initdb)?;
    let hba = staged.join("pg_hba.conf");
    fs::write(&hba, HBA).map_err(in_file(&hba))?;
    // Somebody was faster: theirs is as good.
    if fs::rename(&staged, place).is_err() {
        let _ = fs::remove_dir_all(&staged);
    }
    Ok(())
}
