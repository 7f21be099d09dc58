//! `keystead-server`: arguments, logs, build, serve, exit code. No logic.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::{Parser, Subcommand};
use keystead_core::clock::SystemClock;
use keystead_server::config::Config;
use keystead_server::env::Environment;
use keystead_server::hsm_check::CheckArguments;
use keystead_server::notify::{Notifier, Signals};
use keystead_server::recover::RecoverArguments;
use keystead_server::seal_record::RestoreArguments;
use keystead_server::{Built, Server, dev, memory, telemetry};

/// Of the server and of its HSM process alike.
#[global_allocator]
static ALLOCATOR: memory::WipingAllocator<mimalloc::MiMalloc> =
    memory::WipingAllocator::over(mimalloc::MiMalloc);

/// The Keystead secrets vault.
#[derive(Parser)]
#[command(name = "keystead-server", version, arg_required_else_help = true)]
struct Arguments {
    /// The configuration file (docs/reference/configuration.md).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A vault for trying out: SoftHSM, own certificates, unsealed, everything removed at the end.
    #[arg(long, conflicts_with = "config")]
    dev: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Checks the configuration file and the certificates that it names, and prints what would be used.
    CheckConfig {
        /// The file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Looks at the HSM.
    #[command(subcommand)]
    Hsm(HsmCommand),
    /// Moves a vault whose tokens are lost onto the token that the configuration names now.
    ///
    /// Needs the private half of a recovery key, a quorum of shares, the new token's PIN, and a server that is stopped.
    /// Makes new shares; the former ones open nothing afterwards. Goes on where it was cut off when it is run again.
    Recover(RecoverArguments),
    /// Works on the seal record of a server that is stopped.
    #[command(subcommand)]
    SealRecord(SealRecordCommand),
    /// The process that runs the PKCS#11 module; started by the server.
    #[command(hide = true)]
    HsmWorker,
}

#[derive(Subcommand)]
enum HsmCommand {
    /// Says what the token can do, which way of wrapping would be used, and whether the keys on it are sound.
    ///
    /// Changes nothing. Exits with 0 if a vault can use the token, with 1 if not.
    Check(CheckArguments),
}

#[derive(Subcommand)]
enum SealRecordCommand {
    /// Puts a seal record that was exported into the store, as a backup from before a rekey needs.
    ///
    /// Prints what changes, and asks. Refuses a record of another vault, a forged or an older one, and one by which the
    /// data would not open.
    Restore(RestoreArguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if matches!(arguments.command, Some(Command::HsmWorker)) {
        return keystead_hsm::worker_main();
    }
    match run(arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "keystead-server: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all is well.
fn run(arguments: Arguments) -> anyhow::Result<bool> {
    let environment = Environment::from_process();
    if let Some(Command::CheckConfig { config }) = &arguments.command {
        let config = Config::check(config, &environment)?;
        write!(std::io::stdout(), "{}", config.describe())?;
        return Ok(true);
    }
    let warnings = memory::harden().iter().map(ToString::to_string).collect();
    let built = Built {
        clock: Arc::new(SystemClock::new()),
        hsm_worker: std::env::current_exe().context("this program's own path is unknown")?,
        warnings,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if let Some(Command::Hsm(HsmCommand::Check(check))) = &arguments.command {
        let config = Config::load(check.config(), &environment)?;
        return runtime.block_on(check.run(&config, built.hsm_worker));
    }
    if let Some(Command::Recover(recover)) = &arguments.command {
        let config = Config::load(recover.config(), &environment)?;
        telemetry::init(config.log)?;
        return runtime.block_on(recover.run(config, built));
    }
    if let Some(Command::SealRecord(SealRecordCommand::Restore(restore))) = &arguments.command {
        let config = Config::load(restore.config(), &environment)?;
        telemetry::init(config.log)?;
        return runtime.block_on(restore.run(config, built));
    }
    match (&arguments.config, arguments.dev) {
        (Some(path), _) => {
            let config = Config::load(path, &environment)?;
            runtime.block_on(serve(path, config, built, &environment))?;
        }
        (None, true) => runtime.block_on(dev::serve(built))?,
        (None, false) => anyhow::bail!("give --config FILE, or --dev to try it out"),
    }
    Ok(true)
}

async fn serve(path: &Path, config: Config, built: Built, environment: &Environment) -> anyhow::Result<()> {
    let log = telemetry::init(config.log)?;
    #[cfg(feature = "failpoints")]
    {
        tracing::warn!("built with fail points: the environment can end this server; for tests only");
        keystead_server::env::arm_fail_points();
    }
    telemetry::install_panic_hook();
    let server = Server::build(config, built).await?;
    let mut signals = Signals::register()?;
    let notifier = Notifier::new(environment.notify_socket());
    tracing::info!(address = %server.local_addr(), metrics = ?server.metrics_addr(), "listening; the vault is sealed");
    notifier.ready();
    let tls = server.tls();
    let (path, again) = (path.to_owned(), environment.clone());
    let stop = async move {
        let why = signals
            .until_stop(|| {
                match tls.reload() {
                    Ok(()) => tracing::info!("certificates reloaded"),
                    Err(error) => {
                        let error = format!("{:#}", anyhow::Error::from(error));
                        tracing::error!(error, "certificates not reloaded; the old ones stay");
                    }
                }
                match Config::load(&path, &again) {
                    Ok(config) => drop(log.set_level(config.log.level)),
                    Err(error) => tracing::error!(%error, "log level not reloaded; the old one stays"),
                }
            })
            .await;
        tracing::info!(why, "draining, then sealing");
        notifier.stopping();
        why
    };
    server.serve(stop).await?;
    tracing::info!("sealed and stopped");
    Ok(())
}
