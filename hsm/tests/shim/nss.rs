//! A second real token: NSS softokn, of another maker than SoftHSM and with another reading of the standard. Invariant: a
//! directory of its own; its parameters go in `pReserved`, which the shim passes. What it does not do is in
//! docs/decisions/0013-second-token.md: no EdDSA, no room for AES-GCM's tag, no history of keys, no private data objects.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::session::UserType;
use cryptoki::types::AuthPin;
use keystead_crypto::ports::{Anchor, HsmError, HsmLogin, SignatureAlgorithm};
use keystead_crypto::secret::SecretBytes;
use keystead_hsm::testing::Shim;
use keystead_hsm::{HsmConfig, HsmHandle, MechanismChoice};
use tempfile::TempDir;

use super::bench::{Place, suite, worker};

const LABEL: &str = "keystead";
const PIN: &str = "a-pin-for-nss-only";
/// Where distributions put it.
const MODULES: [&str; 4] = [
    "/usr/lib/x86_64-linux-gnu/libsoftokn3.so",
    "/usr/lib/aarch64-linux-gnu/libsoftokn3.so",
    "/usr/lib64/libsoftokn3.so",
    "/usr/lib/libsoftokn3.so",
];

suite::conforms!(ports without anchor, Nss::new());

struct Nss {
    dir: TempDir,
    shim: Shim,
}

impl Nss {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let module = MODULES.iter().map(PathBuf::from).find(|path| path.exists());
        let module = module.unwrap_or_else(|| panic!("NSS is in none of {MODULES:?}: install libnss3"));
        first_pin(&module, &parameters(dir.path()));
        let shim = Shim::before(&module, dir.path()).unwrap();
        for history in ["CKA_LOCAL", "CKA_ALWAYS_SENSITIVE", "CKA_NEVER_EXTRACTABLE"] {
            shim.inject(&format!("attribute type={history} value=01")).unwrap();
        }
        Self { dir, shim }
    }
}

impl Place for Nss {
    fn config(&self) -> HsmConfig {
        let mut env = self.shim.env();
        env.push(("KEYSTEAD_SHIM_RESERVED".to_owned(), parameters(self.dir.path())));
        HsmConfig {
            worker_exe: worker(),
            worker_args: Vec::new(),
            module: self.shim.library().to_owned(),
            module_sha256: None,
            token_label: LABEL.to_owned(),
            token_serial: None,
            mechanism: MechanismChoice::AesCbcHmac,
            gcm_mechanism: None,
            sessions: 4,
            deadline: Duration::from_secs(10),
            env,
        }
    }

    fn rounds(&self) -> u8 {
        // Each use of a key derives the key that it is stored under.
        1
    }

    fn pin(&self) -> SecretBytes {
        SecretBytes::copy_from(PIN.as_bytes())
    }

    fn seals_by(&self) -> (u8, usize) {
        (4, 16)
    }

    fn signs_by(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::EcdsaP256
    }
}

/// What it cannot keep is refused by name, with nothing left behind.
#[tokio::test]
async fn an_anchor_that_the_token_cannot_keep_is_refused() {
    let place = Nss::new();
    let hsm = place.ready(place.config()).await;
    let outcome = hsm.store(1, b"head").await;
    assert!(
        matches!(&outcome, Err(HsmError::Unsupported { what }) if what.contains("CreateObject")),
        "{outcome:?}"
    );
    assert_eq!(hsm.load().await.unwrap(), None);
}

/// The ladder finds out what is amiss with AES-GCM here, and says what to set.
#[tokio::test]
async fn a_rung_that_does_not_work_is_named_with_what_to_set() {
    let place = Nss::new();
    let hsm = HsmHandle::spawn(HsmConfig { mechanism: MechanismChoice::Auto, ..place.config() }).unwrap();
    let error = hsm.login(place.pin()).await.unwrap_err().to_string();
    assert!(error.contains("aes-gcm") && error.contains("hsm.mechanism"), "{error}");
}

fn parameters(dir: &Path) -> String {
    format!(
        "configdir='sql:{}' certPrefix='' keyPrefix='' secmod='' flags=noModDB dbTokenDescription='{LABEL}'",
        dir.display()
    )
}

/// Sets the first PIN, which NSS lets a security officer without one do.
fn first_pin(module: &Path, parameters: &str) {
    // One library, one state: tests that share a process take turns.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap();
    let parameters = std::ffi::CString::new(parameters).unwrap();
    let module = Pkcs11::new(module).unwrap();
    module.initialize(arguments(&parameters)).unwrap();
    let label = |slot| module.get_token_info(slot).unwrap().label().trim().to_owned();
    let slots = module.get_slots_with_token().unwrap();
    let slot = slots.into_iter().find(|slot| label(*slot) == LABEL).unwrap();
    let session = module.open_rw_session(slot).unwrap();
    session.login(UserType::So, Some(&AuthPin::new("".into()))).unwrap();
    session.init_pin(&AuthPin::new(PIN.into())).unwrap();
    drop(session);
    module.finalize().unwrap();
}

#[expect(unsafe_code, reason = "NSS takes its parameters through a raw pointer")]
fn arguments(parameters: &std::ffi::CStr) -> CInitializeArgs {
    let pointer = std::ptr::NonNull::new(parameters.as_ptr().cast_mut().cast()).unwrap();
    // SAFETY: NSS reads a C string here, which outlives the call.
    unsafe { CInitializeArgs::new_with_reserved(CInitializeFlags::OS_LOCKING_OK, pointer) }
}
