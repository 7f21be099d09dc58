//! Packages of Debian and Ubuntu that building and testing need.
//!
//! Invariant: installed without recommendations, so that nothing with a service of the system comes along (opensc's library
//! recommends pcscd; nothing in this list has a service of its own). Absent: other systems, which are told the names.

use std::{
    os::unix::fs::MetadataExt,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::{command, console};

/// A package, why it is needed, and a program of it, if it has one, that tells on systems without dpkg that it is there.
pub(crate) struct Package {
    pub(crate) name: &'static str,
    pub(crate) reason: &'static str,
    program: Option<&'static str>,
}

const PACKAGES: [Package; 8] = [
    Package { name: "softhsm2", reason: "the HSM of the demo and the tests", program: Some("softhsm2-util") },
    Package { name: "libnss3", reason: "a second token for the tests of the HSM", program: None },
    Package { name: "opensc", reason: "pkcs11-tool, to look into a token", program: Some("pkcs11-tool") },
    Package { name: "openssl", reason: "the certificates of the operator's guide", program: Some("openssl") },
    Package { name: "g++", reason: "compiles RocksDB and aws-lc", program: Some("g++") },
    Package { name: "clang", reason: "reads RocksDB's C header", program: Some("clang") },
    Package { name: "libclang-dev", reason: "reads RocksDB's C header", program: Some("clang") },
    Package { name: "make", reason: "the one-word commands", program: Some("make") },
];

/// Those that this machine lacks.
pub(crate) fn missing() -> Result<Vec<&'static Package>> {
    let dpkg = command::on_path("dpkg-query");
    let mut missing = Vec::new();
    for package in &PACKAGES {
        let there =
            if dpkg { is_installed(package.name)? } else { package.program.is_none_or(command::on_path) };
        if !there {
            missing.push(package);
        }
    }
    Ok(missing)
}

fn is_installed(name: &str) -> Result<bool> {
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat=${db:Status-Status}", name])
        .stderr(Stdio::null())
        .output()
        .context("cannot start dpkg-query")?;
    Ok(output.status.success() && output.stdout == b"installed")
}

/// Installs them by apt, as root or through sudo.
pub(crate) fn install(missing: &[&Package]) -> Result<()> {
    let names: Vec<&str> = missing.iter().map(|package| package.name).collect();
    if !command::on_path("apt-get") {
        bail!(
            "there is no apt-get here: install {} (Debian's names) by this system's own means",
            names.join(", ")
        );
    }
    console::step(&format!("Installing {}", names.join(", ")));
    command::run(as_root()?.args(["update", "--quiet"]))?;
    let quiet = ["install", "--quiet", "--assume-yes", "--no-install-recommends"];
    command::run(as_root()?.args(quiet).args(&names))
}

/// `apt-get` with the rights to install, never asking, waiting for another apt to end.
fn as_root() -> Result<Command> {
    let mut command = if is_root()? {
        Command::new("env")
    } else if command::on_path("sudo") {
        let mut sudo = Command::new("sudo");
        sudo.arg("env");
        sudo
    } else {
        bail!("installing packages needs root or sudo, and neither is here");
    };
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-o", "DPkg::Lock::Timeout=300"]);
    Ok(command)
}

/// Whether we run as root: the owner of our own entry in /proc.
pub(crate) fn is_root() -> Result<bool> {
    let entry = std::fs::metadata("/proc/self").context("cannot see who runs this: /proc is not there")?;
    Ok(entry.uid() == 0)
}
