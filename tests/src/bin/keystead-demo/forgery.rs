//! Shares that are wrong, to see them refused. Invariant: nothing here knows a right share's secret but the mistyped one,
//! whose right form its holder typed.

use anyhow::{Context, Result};
use getrandom::SysRng;
use keystead_client::{Client, SecretBytes};
use keystead_crypto::seal_record::SignedSealHeader;
use keystead_crypto::shamir::{self, Sharing};
use keystead_crypto::unseal_key::UnsealKey;
use rand_core::UnwrapErr;

/// The share with its last character replaced by another one of it.
pub(crate) fn mistyped(share: &str) -> Option<String> {
    let last = share.chars().next_back()?;
    let other = share.chars().rev().find(|other| other.is_ascii_alphanumeric() && *other != last)?;
    let mut text = share.strip_suffix(last)?.to_owned();
    text.push(other);
    Some(text)
}

/// A share 2 that names everything as the vault's own share 2 does, of a key made up here.
pub(crate) async fn forged(local: &Client) -> Result<SecretBytes> {
    let status = local.system().status().await?;
    let header = SignedSealHeader::decode(&status.seal_header)?.verify()?;
    let sharing = Sharing {
        vault: header.vault,
        epoch: header.epoch,
        threshold: header.threshold,
        shares: header.shares,
        audit_fingerprint: header.audit_key.fingerprint(),
    };
    let mut rng = UnwrapErr(SysRng);
    let shares = shamir::split(&UnsealKey::generate(&mut rng), &sharing, &mut rng)?;
    let forged = shares.iter().find(|share| share.number() == 2).context("there is no share 2")?;
    Ok(SecretBytes::from(forged.to_text().expose().to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_share_differs_in_one_character() {
        assert_eq!(mistyped("ks1-share-abcc").unwrap(), "ks1-share-abcb");
        assert_eq!(mistyped("cc"), None);
    }
}
