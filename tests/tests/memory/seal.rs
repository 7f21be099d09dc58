//! What opens the vault: shares, the key they make, the PIN, tokens, and the keys of an open vault.

use std::fs::File;

use data_encoding::Specification;
use keystead_client::{InitRequest, SecretBytes, v1};
use keystead_tests::{ServerProcess, spiffe_matcher, until};

use crate::namespace::inside;
use crate::needles::Needles;
use crate::process::{Found, mappings, read, search, search_after_closing};

/// The key bytes in a share's text: the text begins with its name, and a body of this many bytes follows in groups.
const SHARE_NAME: &str = "ks1-share-";
const SHARE_HEAD: usize = 31;
const KEY: usize = 32;

#[test]
fn shares_pin_and_token_leave_no_copy() {
    inside("seal::shares_pin_and_token_leave_no_copy", async {
        let server = ServerProcess::start().await;
        let request = InitRequest { operators: Vec::new(), ..server.init_request() };
        let made = server.local().system().initialize(request).await.unwrap();
        server.keep_shares(&made);
        let token = made.bootstrap_token.unwrap();

        let shares: Vec<Vec<u8>> = server.shares().iter().map(|text| key_in(text)).collect();
        let unseal_key = combine(&[(1, &shares[0]), (2, &shares[1])]);
        assert_eq!(unseal_key, combine(&[(2, &shares[1]), (3, &shares[2])]), "any two make the key");
        let mut needles = Needles::new();
        needles.add("unseal key", &unseal_key);
        needles.add("PIN", server.token().pin.as_bytes());
        needles.add("token", token.expose());
        look_for_shares(&mut needles, &server.shares());
        assert_eq!(search_after_closing(&server, &needles).await, [], "after init");

        let local = server.local();
        let share = |at: usize| SecretBytes::from(server.shares().swap_remove(at));
        local.system().submit_share(&share(0), "").await.unwrap();
        let found = search(&server, &needles);
        assert!(found.iter().any(|found| found.value == "share 1"), "the first share waits: {found:?}");
        local.system().submit_share(&share(1), "").await.unwrap();

        let bootstrap = server.bearer(token.expose_str().unwrap());
        for name in ["ann", "bob", "eve"] {
            let principal = v1::Principal {
                name: format!("operator/{name}"),
                groups: vec!["admins".to_owned()],
                certificates: vec![spiffe_matcher(&format!("spiffe://test/operator/{name}"))],
                ..v1::Principal::default()
            };
            bootstrap.auth().put_principal(principal).await.unwrap();
        }
        drop((local, bootstrap));
        let found = search_after_closing(&server, &needles).await;
        // Kept for logging in again.
        let elsewhere: Vec<&Found> =
            found.iter().filter(|found| !(found.value == "PIN" && found.in_arena)).collect();
        assert!(elsewhere.is_empty(), "while open: {elsewhere:?}");
        assert_eq!(found.len(), 1, "the PIN is kept once, and found");

        let ann = server.client(&server.pki().client("spiffe://test/operator/ann"));
        ann.system().seal().await.unwrap();
        drop(ann);
        assert_eq!(search_after_closing(&server, &needles).await, [], "after sealing");
    });
}

#[test]
fn long_lived_keys_are_in_the_arena_and_nowhere_else() {
    inside("seal::long_lived_keys_are_in_the_arena_and_nowhere_else", async {
        let server = ServerProcess::start().await;
        assert!(server.local().system().status().await.unwrap().memory_locked);
        server.init().await;
        server.unseal().await;
        let admin = server.operator();
        admin.secrets().put("a", keystead_client::SecretValue::data("x")).await.unwrap();
        for _ in 0..20 {
            admin.secrets().get("a").await.unwrap();
        }
        drop(admin);

        let memory = File::open(format!("/proc/{}/mem", server.id())).unwrap();
        let arena = || mappings(server.id()).into_iter().find(|mapping| mapping.is_arena());
        let arena = arena().expect("a locked mapping that is left out of core dumps");
        assert!(arena.has("wf"), "wiped in a forked child: {:?}", arena.flags);
        assert_eq!(arena.locked_kib, u64::try_from(arena.bytes / 1024).unwrap());
        let keys = read(&memory, &arena);
        // A PIN is shorter than its place.
        let places = || keys.chunks(KEY).map(without_zeros).filter(|key| !key.is_empty());
        let mut needles = Needles::new();
        for (number, key) in (1..).zip(places()) {
            needles.add(&format!("the arena's key {number}"), key);
        }
        // Q, the name key, the look-up key, a system key, the day's audit key and its subkey, the PIN.
        assert!(places().count() >= 7, "{} keys", places().count());
        let found = search_after_closing(&server, &needles).await;
        let (inside, outside): (Vec<Found>, Vec<Found>) = found.into_iter().partition(|found| found.in_arena);
        assert!(!inside.is_empty());
        assert_eq!(outside, []);

        server.seal().await;
        until("sealing wiped the arena", || async {
            read(&memory, &arena).iter().all(|byte| *byte == 0).then_some(())
        })
        .await;
    });
}

/// Looks for shares: the secret in them, and their texts.
pub(crate) fn look_for_shares(needles: &mut Needles, texts: &[String]) {
    for (number, text) in (1..).zip(texts) {
        needles.add(&format!("share {number}"), &key_in(text));
        // From the first group that holds nothing but the key on.
        let secret = text.get(SHARE_NAME.len() + 7 * 9..).unwrap();
        needles.add_as_it_is(&format!("text of share {number}"), secret.as_bytes());
        needles.add_as_it_is(&format!("text of share {number}"), secret.replace('-', "").as_bytes());
    }
}

fn without_zeros(place: &[u8]) -> &[u8] {
    let end = place.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    place.get(..end).unwrap()
}

/// The 32 bytes of a share's text that are secret.
fn key_in(text: &str) -> Vec<u8> {
    let mut base32 = Specification::new();
    base32.symbols.push_str("0123456789abcdefghjkmnpqrstvwxyz");
    let groups = text.strip_prefix(SHARE_NAME).unwrap().replace('-', "");
    let body = base32.encoding().unwrap().decode(groups.as_bytes()).unwrap();
    body.get(SHARE_HEAD..SHARE_HEAD + KEY).unwrap().to_vec()
}

/// Lagrange's polynomial at 0 over GF(256), byte by byte.
fn combine(points: &[(u8, &Vec<u8>)]) -> Vec<u8> {
    let weight = |own: u8| {
        let others = points.iter().map(|(x, _)| *x).filter(|x| *x != own);
        others.fold(1, |weight, x| multiply(weight, multiply(x, invert(x ^ own))))
    };
    let byte = |at: usize| {
        let terms = points.iter().map(|(x, y)| multiply(weight(*x), *y.get(at).unwrap()));
        terms.fold(0, |sum, term| sum ^ term)
    };
    (0..KEY).map(byte).collect()
}

fn multiply(mut a: u8, mut b: u8) -> u8 {
    let mut product = 0;
    while b != 0 {
        if b & 1 == 1 {
            product ^= a;
        }
        a = a << 1 ^ if a & 0x80 == 0 { 0 } else { 0x1b };
        b >>= 1;
    }
    product
}

fn invert(a: u8) -> u8 {
    (1..=255).find(|b| multiply(a, *b) == 1).unwrap()
}
