//! A SoftHSM token behind the shim.

use keystead_crypto::secret::SecretBytes;
use keystead_hsm::HsmConfig;
use keystead_hsm::testing::Shim;

use super::bench::{Bench, Place};

/// A token behind the shim.
pub(crate) struct Faulty {
    pub(crate) bench: Bench,
    pub(crate) shim: Shim,
}

impl Faulty {
    pub(crate) fn new() -> Self {
        let bench = Bench::new();
        let shim = Shim::before(&bench.token.module, bench.path()).unwrap();
        Self { bench, shim }
    }
}

impl Place for Faulty {
    fn config(&self) -> HsmConfig {
        self.shim.config(self.bench.config())
    }

    fn pin(&self) -> SecretBytes {
        self.bench.pin()
    }
}
