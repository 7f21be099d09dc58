//! Packages of Debian and Ubuntu that building and testing need.
//!
//! Invariant: no service of the system comes along. Packages are installed without recommendations (opensc's library recommends
//! pcscd), and Debian's PostgreSQL is told to make no cluster of its own. Absent: other systems, which are told the names.

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

const PACKAGES: [Package; 9] = [
    Package { name: "softhsm2", reason: "the HSM of the demo and the tests", program: Some("softhsm2-util") },
    Package { name: "libnss3", reason: "a second token for the tests of the HSM", program: None },
    Package { name: "opensc", reason: "pkcs11-tool, to look into a token", program: Some("pkcs11-tool") },
    Package { name: "openssl", reason: "the certificates of the operator's guide", program: Some("openssl") },
    Package {
        name: "postgresql",
        reason: "databases that tests start in private directories",
        program: Some("postgres"),
    },
    Package { name: "g++", reason: "compiles RocksDB and aws-lc", program: Some("g++") },
    Package { name: "clang", reason: "reads RocksDB's C header", program: Some("clang") },
    Package { name: "libclang-dev", reason: "reads RocksDB's C header", program: Some("clang") },
    Package { name: "make", reason: "the one-word commands", program: Some("make") },
];

/// While this lies there, installing PostgreSQL makes and starts no cluster: postgresql-common reads it.
const NO_CLUSTER: &str = "/etc/postgresql-common/createcluster.d/keystead-set-up.conf";

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
    command::run(apt_get()?.args(["update", "--quiet"]))?;
    let quiet = ["install", "--quiet", "--assume-yes", "--no-install-recommends"];
    if !names.contains(&"postgresql") {
        return command::run(apt_get()?.args(quiet).args(&names));
    }
    let write = "mkdir -p \"$(dirname \"$0\")\" && echo 'create_main_cluster = false' > \"$0\"";
    command::run(as_root()?.args(["sh", "-c", write, NO_CLUSTER]))?;
    let installed = command::run(apt_get()?.args(quiet).args(&names));
    // Whoever wants a cluster later gets one.
    command::run(as_root()?.args(["rm", "-f", NO_CLUSTER]))?;
    installed
}

/// `apt-get` with the rights to install, never asking, waiting for another apt to end.
fn apt_get() -> Result<Command> {
    let mut command = as_root()?;
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-o", "DPkg::Lock::Timeout=300"]);
    Ok(command)
}

/// A command with the rights to install.
fn as_root() -> Result<Command> {
    if is_root()? {
        return Ok(Command::new("env"));
    }
    if !command::on_path("sudo") {
        bail!("installing packages needs root or sudo, and neither is here");
    }
    let mut sudo = Command::new("sudo");
    sudo.arg("env");
    Ok(sudo)
}

/// Whether we run as root: the owner of our own entry in /proc.
pub(crate) fn is_root() -> Result<bool> {
    let entry = std::fs::metadata("/proc/self").context("cannot see who runs this: /proc is not there")?;
    Ok(entry.uid() == 0)
}
