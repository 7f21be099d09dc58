//! What somebody does to the log who has the disk of a stopped server, and leaves it well-formed.

use std::ops::Range;
use std::path::PathBuf;

use keystead_audit::verify;

use super::*;

const FRAME_HEADER: usize = 16;

fn log_file(vault: &TestVault) -> PathBuf {
    vault.data_dir().join("audit").join("audit-00000000000000000000.log")
}

/// Where the frames of the first file lie; it begins with an empty tree.
fn frames(bytes: &[u8]) -> Vec<Range<usize>> {
    let mut frames = Vec::new();
    let mut at = 22;
    while at < bytes.len() {
        let length = u32::from_be_bytes(bytes[at + 4..at + 8].try_into().unwrap());
        let end = at + FRAME_HEADER + usize::try_from(length).unwrap();
        frames.push(at..end);
        at = end;
    }
    frames
}

/// Takes the last `count` entries away.
fn cut(vault: &TestVault, count: usize) {
    let mut bytes = std::fs::read(log_file(vault)).unwrap();
    let frames = frames(&bytes);
    bytes.truncate(frames[frames.len() - count].start);
    std::fs::write(log_file(vault), bytes).unwrap();
}

/// Changes one letter of a clear entry and makes the checksum fit.
fn edit(vault: &TestVault) {
    let mut bytes = std::fs::read(log_file(vault)).unwrap();
    let found = frames(&bytes).into_iter().find_map(|frame| {
        let at = bytes[frame.clone()].windows(11).position(|window| window == b"system:init")?;
        Some((frame.clone(), frame.start + at))
    });
    let (frame, at) = found.unwrap();
    bytes[at] = b'S';
    let mut crc = crc32fast::Hasher::new();
    crc.update(&bytes[frame.start + 4..frame.start + 12]);
    crc.update(&bytes[frame.start + FRAME_HEADER..frame.end]);
    bytes[frame.start + 12..frame.start + FRAME_HEADER].copy_from_slice(&crc.finalize().to_be_bytes());
    std::fs::write(log_file(vault), bytes).unwrap();
}

#[tokio::test]
async fn a_log_that_was_cut_changed_or_replaced_keeps_the_vault_sealed() {
    let (mut vault, _) = start(NEVER_MIND).await;
    put(&vault.operator(), "a", "x").await;
    vault.stop().await;
    let older = vault.dir().join("older");
    copy(&vault.data_dir().join("audit"), &older);
    vault.start_again().await.unwrap();
    vault.unseal().await;
    put(&vault.operator(), "a", "y").await;
    vault.stop().await;
    let whole = vault.dir().join("whole");
    copy(&vault.data_dir(), &whole);
    let size = verify(&vault.data_dir().join("audit")).unwrap().size;

    type Tamper<'a> = (&'a str, Box<dyn Fn(&TestVault) + 'a>);
    let tampers: [Tamper<'_>; 5] = [
        ("the last entry is cut off", Box::new(|vault| cut(vault, 1))),
        ("all but two are cut off", Box::new(|vault| cut(vault, usize::try_from(size).unwrap() - 2))),
        ("an entry is changed", Box::new(edit)),
        ("an older log", Box::new(|vault| copy(&older, &vault.data_dir().join("audit")))),
        ("no log", Box::new(|vault| std::fs::remove_dir_all(vault.data_dir().join("audit")).unwrap())),
    ];
    for (what, tamper) in tampers {
        copy(&whole, &vault.data_dir());
        tamper(&vault);
        if what != "no log" {
            verify(&vault.data_dir().join("audit")).unwrap();
        }
        vault.start_again().await.unwrap();
        let refused = try_unseal(&vault).await.expect_err(what);
        assert_eq!(anchored(&refused).size, size, "{what}");
        assert!(!vault.vault().is_unsealed(), "{what}");
        vault.stop().await;
    }

    copy(&whole, &vault.data_dir());
    vault.start_again().await.unwrap();
    vault.unseal().await;
    assert_eq!(get(&vault.operator(), "a").await, "y");
}

#[tokio::test]
async fn entries_that_were_added_to_a_cut_log_do_not_make_up_for_those_cut_off() {
    let (mut vault, _) = start(NEVER_MIND).await;
    put(&vault.operator(), "a", "x").await;
    vault.stop().await;
    let size = verify(&vault.data_dir().join("audit")).unwrap().size;
    cut(&vault, 2);
    vault.start_again().await.unwrap();
    // Each share is an entry of the sealed vault, so that the log is as long as before.
    let refused = try_unseal(&vault).await.unwrap_err();
    assert!(vault.vault().audit().size() >= size);
    assert_eq!(anchored(&refused).size, size);
    let last = SecretBytes::from(vault.shares()[1].clone());
    let refused = vault.local().system().submit_share(&last, "").await.unwrap_err();
    assert!(refused.to_string().contains("have the root"), "{refused}");
    assert_eq!(anchored(&refused).size, size);
}

#[tokio::test]
async fn sealing_by_an_operator_anchors_all_of_it() {
    let (mut vault, _) = start(NEVER_MIND).await;
    put(&vault.operator(), "a", "x").await;
    vault.seal().await;
    vault.stop().await;
    let size = verify(&vault.data_dir().join("audit")).unwrap().size;
    cut(&vault, 1);
    vault.start_again().await.unwrap();
    assert_eq!(anchored(&try_unseal(&vault).await.unwrap_err()).size, size);
}
