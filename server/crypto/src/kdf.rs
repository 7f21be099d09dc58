//! HKDF-SHA256 (RFC 5869) with a label for each use. Invariant: the info string starts with the length-prefixed label,
//! so no two uses derive the same key from the same secret. Outputs and the extracted key are wiped.

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

use crate::codec::Writer;

/// Derives `N` bytes from `secret`, bound to `label` and `context`. No salt is the empty salt.
pub(crate) fn derive<const N: usize>(
    secret: &[u8],
    salt: &[u8],
    label: &str,
    context: &[u8],
) -> Zeroizing<[u8; N]> {
    const { assert!(N <= 64, "two blocks are the most that is used here") };
    let info = Writer::new().text(label).raw(context).finish();
    let (mut extracted, hkdf) = Hkdf::<Sha256>::extract(Some(salt), secret);
    extracted.as_mut_slice().zeroize();
    let mut out = Zeroizing::new([0; N]);
    if hkdf.expand(&info, out.as_mut_slice()).is_err() {
        unreachable!("HKDF refuses only more than 255 blocks, and two are the most here");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{hex, unhex};

    #[test]
    fn hkdf_matches_rfc_5869_case_1() {
        let (prk, hkdf) = Hkdf::<Sha256>::extract(Some(&unhex("000102030405060708090a0b0c")), &[0x0b; 22]);
        assert_eq!(hex(&prk), "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5");
        let mut okm = [0; 42];
        hkdf.expand(&unhex("f0f1f2f3f4f5f6f7f8f9"), &mut okm).unwrap();
        assert_eq!(
            hex(&okm),
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
        );
    }

    #[test]
    fn the_label_and_the_context_do_not_run_into_each_other() {
        let a = derive::<32>(b"secret", b"", "label", b"x");
        let b = derive::<32>(b"secret", b"", "labelx", b"");
        let c = derive::<32>(b"secret", b"x", "label", b"");
        assert_ne!(a, b);
        assert_ne!(a, c);
    }
}
