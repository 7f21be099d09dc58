//! A server on a small file system that fills up: a tmpfs in a mount namespace of its own, so that the test needs no rights.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use keystead_client::SecretBytes;
use keystead_proto::v1;
use keystead_tests::{ServerProcess, until};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::ledger::{Fate, Ledger, Write, secrets};
use crate::records::{self, Records};

#[test]
fn a_full_disk_refuses_writes_loses_nothing_and_recovers() {
    in_a_mount_namespace("full_disk::on_a_small_disk");
}

#[test]
fn an_operator_seals_on_a_full_disk() {
    in_a_mount_namespace("full_disk::sealing_on_a_small_disk");
}

fn in_a_mount_namespace(test: &str) {
    // Removed from outside: inside, the mount is in the way.
    let place = tempfile::tempdir().unwrap();
    let status = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env("TMPDIR", place.path())
        .status()
        .expect("unshare (util-linux) runs");
    assert!(status.success());
}

#[tokio::test]
#[ignore = "run in a mount namespace of its own"]
async fn on_a_small_disk() {
    let (mut server, ballast) = unsealed_on_a_small_disk().await;
    let mut ledger = Ledger::default();
    let large = write_until_refused(&server, &mut ledger, "large", 64 << 10).await;
    assert!(ledger.acknowledged() > 5, "{} writes fit, then {large:?}", ledger.acknowledged());
    fill(&ballast);
    let small = write_until_refused(&server, &mut ledger, "small", 100).await;
    reads_go_on_or_are_refused(&server, &ledger).await;
    assert_eq!(server.local().system().status().await.unwrap().state(), v1::SealState::Unsealed);

    std::fs::remove_file(&ballast).unwrap();
    until("writes are taken again", || async { put(&server).await.ok() }).await;
    let faults = ledger.compare_fresh(&server).await;
    assert!(faults.is_empty(), "with space again: {faults:#?}");
    ledger.settle();

    fill(&ballast);
    let last = write_until_refused(&server, &mut ledger, "last", 100).await;
    assert!(server.terminate().await.success(), "it seals and stops with a full disk: {}", server.stderr());
    records::verify(&server);
    std::fs::remove_file(&ballast).unwrap();
    server.start_again().await;
    server.unseal().await;
    let mut faults = ledger.compare_fresh(&server).await;
    faults.extend(ledger.compare_all(&server).await);
    let mut log = Records::default();
    log.settled(&server).await;
    faults.extend(log.compare(&ledger.writes));
    assert!(faults.is_empty(), "after a restart: {faults:#?}");
    for (id, refused) in [large, small, last] {
        let fate = ledger.writes.iter().find(|write| write.id == id).unwrap().fate;
        assert!(
            fate == Fate::Absent || refused.code() == Code::Unknown,
            "{id} is {fate:?} after {refused:?}"
        );
    }
    let sealed = |entry: &v1::AuditEntry| entry.action == "system:seal" && entry.outcome == "ok";
    assert!(server.audit().await.iter().any(sealed), "the reserve had room for this");
    assert!(server.terminate().await.success());
}

#[tokio::test]
#[ignore = "run in a mount namespace of its own"]
async fn sealing_on_a_small_disk() {
    let (mut server, ballast) = unsealed_on_a_small_disk().await;
    put(&server).await.unwrap();
    fill(&ballast);
    let read = || async {
        let request = v1::GetSecretRequest { path: "disk/again".to_owned(), version: 0 };
        secrets(&server).get_secret(request).await.err()
    };
    let refused = until("nothing more can be recorded", read).await;
    assert_eq!(refused.get_details_error_info().unwrap().reason, "AUDIT_UNAVAILABLE");
    server.operator().system().seal().await.unwrap();
    assert_eq!(server.local().system().status().await.unwrap().state(), v1::SealState::Sealed);
    assert_eq!(read().await.unwrap().get_details_error_info().unwrap().reason, "SEALED");

    std::fs::remove_file(&ballast).unwrap();
    // A write of the vault's own may have been refused meanwhile: then the store takes a moment to notice the room.
    for share in &server.shares()[..server.threshold()] {
        let share = SecretBytes::from(share.clone());
        until("the share is taken", || async { server.local().system().submit_share(&share, "").await.ok() })
            .await;
    }
    until("requests are recorded again", || async { read().await.is_none().then_some(()) }).await;
    let entries = server.audit().await;
    let seals =
        entries.iter().filter(|entry| entry.action == "system:seal" && entry.principal == "operator/admin");
    let seals: Vec<_> = seals.map(|entry| (entry.kind.as_str(), entry.outcome.as_str())).collect();
    assert_eq!(seals, [("intent", ""), ("outcome", "ok")], "the reserve had room for both");
    assert!(server.terminate().await.success());
}

/// A vault with some MiB of room, and the file that takes the rest.
async fn unsealed_on_a_small_disk() -> (ServerProcess, PathBuf) {
    let mut server = ServerProcess::prepare(&[("audit.reserve_mib", "1")]);
    std::fs::create_dir(server.data_dir()).unwrap();
    let mount = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=32m,mode=0700", "tmpfs"])
        .arg(server.data_dir())
        .status()
        .unwrap();
    assert!(mount.success());
    // Before the start, so that there is no room for what the store likes to put aside for its log; its manifest and the
    // audit log's reserve take five of these.
    let ballast = server.data_dir().join("ballast");
    leave(&ballast, 8 << 20);
    server.start_again().await;
    server.init().await;
    server.unseal().await;
    (server, ballast)
}

/// Writes until the server refuses, clearly; says which write that was.
async fn write_until_refused(
    server: &ServerProcess,
    ledger: &mut Ledger,
    name: &str,
    size: usize,
) -> (String, Status) {
    let mut secrets = secrets(server);
    for number in 0.. {
        let id = format!("{name}-{number}");
        let value = format!("{id}|").repeat(size / (id.len() + 1)).into_bytes();
        let mut write = Write { id: id.clone(), path: format!("disk/{id}"), value, fate: Fate::Unknown };
        let answer = secrets.put_secret(write.request(&id)).await;
        if let Ok(answer) = &answer {
            write.fate = Fate::Acknowledged(answer.get_ref().version.as_ref().unwrap().version);
        }
        ledger.writes.push(write);
        if let Err(refused) = answer {
            is_clear(&refused);
            return (id, refused);
        }
    }
    unreachable!("the disk has an end");
}

async fn put(server: &ServerProcess) -> Result<(), Status> {
    let write =
        Write { id: String::new(), path: "disk/again".to_owned(), value: vec![b'x'], fate: Fate::Unknown };
    secrets(server).put_secret(write.request("again")).await.map(drop)
}

/// A refusal that says what is wrong, in a word for programs and a sentence for people.
fn is_clear(refused: &Status) {
    let reason = refused.get_details_error_info().map(|info| info.reason).unwrap_or_default();
    let expected = match reason.as_str() {
        "STORAGE_FULL" => Code::ResourceExhausted,
        "AUDIT_UNAVAILABLE" => Code::Unavailable,
        "OUTCOME_UNRECORDED" => Code::Unknown,
        other => panic!("{other}: {refused:?}"),
    };
    assert_eq!(refused.code(), expected);
    assert!(!refused.message().is_empty());
    if expected != Code::Unknown {
        assert!(refused.get_details_retry_info().is_some(), "it says when to try again");
    }
}

/// A read is answered only with its record; without room for that it is refused, and never answered wrongly.
async fn reads_go_on_or_are_refused(server: &ServerProcess, ledger: &Ledger) {
    let mut secrets = secrets(server);
    for write in ledger.writes.iter().filter(|write| matches!(write.fate, Fate::Acknowledged(_))) {
        let request = v1::GetSecretRequest { path: write.path.clone(), version: 0 };
        match secrets.get_secret(request).await {
            Ok(answer) => {
                let value = answer.into_inner().value.unwrap().value.unwrap();
                assert_eq!(value, v1::secret_value::Value::Data(write.value.clone()));
            }
            Err(refused) => {
                let reason = refused.get_details_error_info().unwrap().reason;
                assert_eq!(reason, "AUDIT_UNAVAILABLE", "{refused:?}");
            }
        }
    }
}

/// Leaves so many bytes free.
fn leave(ballast: &Path, free: usize) {
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(ballast).unwrap();
    let room = || {
        let disk = rustix::fs::statvfs(ballast.parent().unwrap()).unwrap();
        usize::try_from(disk.f_bavail * disk.f_frsize).unwrap()
    };
    // Somebody else may take the last of it.
    while room() > free && file.write_all(&[0; 4096]).is_ok() {}
}

/// Leaves nothing but the rest of each file's last page.
fn fill(ballast: &Path) {
    leave(ballast, 0);
}
