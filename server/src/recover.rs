//! `keystead-server recover`: for a vault whose tokens are lost. Invariant: secrets come from files and prompts, never from
//! arguments; the new shares are in durable files before they count. Absent: the recovery itself, which is the core's.

mod places;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use keystead_core::clock::Clock;
use keystead_core::seal::recovery::{Moved, NewSeal, Recover, RecoverError, Recovered, Witness};
use keystead_core::vault::{Vault, VaultParts};
use keystead_crypto::recovery::RecoveryIdentity;
use keystead_crypto::secret::SecretBytes;
use keystead_crypto::share::Share;
use keystead_domain::seal::Quorum;

use self::places::Places;
use crate::config::Config;
use crate::secret_input::{self, Wanted};
use crate::wiring::{open_parts, open_store};
use crate::{Built, StartError};

/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_secs(2);
/// What every age identity begins with.
const IDENTITY_PREFIX: &[u8] = b"AGE-SECRET-KEY-1";

const IDENTITY: Wanted = Wanted {
    what: "identity",
    prompt: "Identity of the recovery key (AGE-SECRET-KEY-1...)",
    hint: "name --identity-file",
};
const SHARE: Wanted = Wanted { what: "share", prompt: "Share", hint: "name --share-file, once a share" };
const PIN: Wanted = Wanted { what: "PIN", prompt: "PIN of the new token", hint: "name --pin-file" };

/// With what to recover, and where to put what is made.
#[derive(Debug, clap::Args)]
pub struct RecoverArguments {
    /// The configuration file; its `[hsm]` names the new token.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The private half of the recovery key, as `age-keygen` wrote it; without it, it is asked for.
    #[arg(long, value_name = "FILE")]
    identity_file: Option<PathBuf>,
    /// A share; once for each. Without any, they are asked for.
    #[arg(long = "share-file", value_name = "FILE")]
    share_files: Vec<PathBuf>,
    /// The PIN of the new token; without it, it is asked for.
    #[arg(long, value_name = "FILE")]
    pin_file: Option<PathBuf>,
    /// Directory for the new shares and the new seal record, in new files of mode 0600.
    #[arg(long, value_name = "DIR")]
    out_dir: PathBuf,
    /// New shares to make; as many as before if nothing is said.
    #[arg(long, requires = "threshold", value_name = "N")]
    shares: Option<u8>,
    /// New shares that are needed.
    #[arg(long, requires = "shares", value_name = "K")]
    threshold: Option<u8>,
    /// Gives up data keys that the recovery key does not open: what they seal is lost.
    #[arg(long)]
    leave_behind: bool,
}

impl RecoverArguments {
    /// The configuration file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Recovers, and says whether all of it is done and recorded.
    ///
    /// # Errors
    /// What keeps the vault from being recovered, in words.
    pub async fn run(&self, config: Config, built: Built) -> anyhow::Result<bool> {
        let quorum = self.quorum()?;
        // All its tokens are lost; further ones join again later.
        let config = Config { further: Vec::new(), ..config };
        let parts = open_stopped(&config, built).await?;
        let (storage, audit) = (Arc::clone(&parts.storage), Arc::clone(&parts.audit));
        let vault = Vault::new(parts);
        let recovered = self.recover(&vault, quorum).await;
        drop(vault);
        let closed = storage.close().await;
        audit.close();
        let recovered = recovered?;
        closed?;
        Ok(recovered)
    }

    fn quorum(&self) -> anyhow::Result<Option<Quorum>> {
        match (self.threshold, self.shares) {
            (Some(threshold), Some(shares)) => Ok(Some(Quorum::new(threshold, shares)?)),
            _ => Ok(None),
        }
    }

    async fn recover(&self, vault: &Vault, quorum: Option<Quorum>) -> anyhow::Result<bool> {
        let needed = vault.quorum().await?;
        let asked = Recover {
            shares: self.shares(vault, needed.threshold()).await?,
            identity: identity(&given(IDENTITY, self.identity_file.as_deref())?)?,
            pin: given(PIN, self.pin_file.as_deref())?,
            quorum,
            leave_behind: self.leave_behind,
        };
        let places = Places::make(&self.out_dir, quorum.unwrap_or(needed).shares())?;
        let clock = Arc::clone(vault.clock());
        let console = Console { clock, places: Mutex::new(places), told: Mutex::new(None) };
        match vault.recover(&asked, &console).await {
            Ok(recovered) => console.done(&recovered),
            Err(error) => {
                // Whatever else went wrong, these shares will never count.
                if !matches!(error, RecoverError::PerhapsDone(_)) {
                    console.places().remove();
                }
                let reason = error.reason();
                Err(anyhow!("{:#} [{reason}]", anyhow::Error::from(error)))
            }
        }
    }

    /// A quorum of good shares. Of files each is looked at, and each bad one named; of typed ones the bad are asked again.
    async fn shares(&self, vault: &Vault, needed: u8) -> anyhow::Result<Vec<Share>> {
        let mut good: Vec<Share> = Vec::new();
        let again = |good: &[Share], share: &Share| good.iter().any(|one| one.number() == share.number());
        if self.share_files.is_empty() && secret_input::can_ask() {
            while good.len() < usize::from(needed) {
                let text = given(SHARE, None)?;
                match vault.check_share(&text).await {
                    Ok(share) if again(&good, &share) => say(&format!(
                        "share {} was entered already; another holder's is needed",
                        share.number()
                    )),
                    Ok(share) => {
                        good.push(share);
                        say(&format!("good: {} of {needed}", good.len()));
                    }
                    Err(error) => say(&error.to_string()),
                }
            }
            return Ok(good);
        }
        let mut bad = 0_usize;
        for path in &self.share_files {
            match vault.check_share(&given(SHARE, Some(path))?).await {
                Ok(share) if again(&good, &share) => {
                    say(&format!("{}: share {} is there already", path.display(), share.number()));
                    bad = bad.saturating_add(1);
                }
                Ok(share) => good.push(share),
                Err(error) => {
                    say(&format!("{}: {error} [{}]", path.display(), error.reason()));
                    bad = bad.saturating_add(1);
                }
            }
        }
        if bad > 0 {
            bail!("{bad} of the shares are not good; nothing was changed");
        }
        if good.len() < usize::from(needed) {
            bail!("{} shares of the {needed} needed; name --share-file once for each", good.len());
        }
        Ok(good)
    }
}

/// Store, log and tokens of a server that does not run.
pub(crate) async fn open_stopped(config: &Config, built: Built) -> anyhow::Result<VaultParts> {
    let parts = open_parts(config, built.clock, &built.hsm_worker, open_store).await;
    parts.map_err(|error| match error {
        locked @ (StartError::Storage(_) | StartError::Audit(_)) => {
            anyhow::Error::from(locked).context("the vault cannot be opened; is its server stopped?")
        }
        other => other.into(),
    })
}

/// A secret from its file, or from whoever sits there.
fn given(wanted: Wanted, file: Option<&Path>) -> anyhow::Result<SecretBytes> {
    if file.is_none() && !secret_input::can_ask() {
        bail!("no {} was given, and there is nobody to ask; {}", wanted.what, wanted.hint);
    }
    secret_input::read(wanted, file).map(|(secret, _)| secret)
}

/// The one identity of a file by `age-keygen`, which has comments.
fn identity(text: &SecretBytes) -> anyhow::Result<RecoveryIdentity> {
    let lines = text.expose().split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let mut found = lines.filter(|line| line.starts_with(IDENTITY_PREFIX));
    let one = found.next().context(
        "there is no age identity in it: a line that begins with AGE-SECRET-KEY-1; one that is sealed with a passphrase is \
         opened by `age -d` first",
    )?;
    if found.next().is_some() {
        bail!("there are several identities in it; name a file with the one of this vault");
    }
    Ok(RecoveryIdentity::parse(&SecretBytes::copy_from(one))?)
}

/// For people, while it goes on.
fn say(text: &str) {
    // Nobody may be listening any more, and the work goes on.
    let _ = writeln!(io::stderr(), "{text}");
}

/// Keeps what is made in files, and tells how far it is.
struct Console {
    clock: Arc<dyn Clock>,
    places: Mutex<Places>,
    told: Mutex<Option<Duration>>,
}

impl Console {
    fn places(&self) -> std::sync::MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what was done; whether it was recorded too.
    fn done(&self, recovered: &Recovered) -> anyhow::Result<bool> {
        let Recovered { vault, token, epoch, moved, unrecorded, .. } = recovered;
        let mut out = io::stdout().lock();
        writeln!(out, "Vault {vault} is on token {token} now, and sealed.")?;
        writeln!(
            out,
            "Data keys: {} moved ({} of them before), {} left behind.",
            moved.looked.saturating_sub(moved.left_behind),
            moved.looked.saturating_sub(moved.left_behind).saturating_sub(moved.wrapped),
            moved.left_behind
        )?;
        writeln!(out, "Shares of epoch {epoch}. Written:")?;
        for path in self.places().paths() {
            writeln!(out, "  {}", path.display())?;
        }
        writeln!(out, "Give each share to one holder and delete it here: there is no other copy.")?;
        if let Some(error) = unrecorded {
            say(&format!("the vault is recovered, but the audit log could not record that: {error}"));
        }
        Ok(unrecorded.is_none())
    }
}

impl Witness for Console {
    fn moved(&self, progress: &Moved) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.monotonic();
        if told.is_some_and(|told| now.saturating_sub(told) < TELL_EVERY) {
            return;
        }
        *told = Some(now);
        let Moved { looked, estimated_total, rate, left_behind, .. } = progress;
        say(&format!(
            "data keys: {looked} of about {estimated_total}, {rate} a second, {left_behind} left behind"
        ));
    }

    fn left_behind(&self, data_key: &str, why: &'static str) {
        say(&format!("data key {data_key}: {why}"));
    }

    fn keep(&self, seal: NewSeal<'_>) -> Result<(), String> {
        self.places().fill(seal).map_err(|error| format!("{error:#}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33";

    fn read(text: &str) -> anyhow::Result<String> {
        let identity = identity(&SecretBytes::copy_from(text.as_bytes()))?;
        Ok(identity.recipient().name().to_owned())
    }

    #[test]
    fn an_identity_is_found_among_comments_and_must_be_the_only_one() {
        let named = "recovery:e669ae85e3185682";
        assert_eq!(read(&format!("# created: 2026\r\n# public key: age1...\r\n{ONE}\r\n")).unwrap(), named);
        assert_eq!(read(ONE).unwrap(), named);
        for bad in ["", "# AGE", &format!("{ONE}\n{ONE}\n"), &format!("{ONE}x")] {
            let said = read(bad).unwrap_err().to_string();
            assert!(!said.contains("GQ9778"), "{said}");
        }
    }
}
