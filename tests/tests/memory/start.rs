//! What the processes do when they start: nobody else can read them, a crash dumps nothing, and what the system did not
//! grant is said.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use keystead_tests::{ServerProcess, children_of, server, until};

use crate::namespace::inside;
use crate::process::{line_of, mappings, processes};

const NO_PRIVILEGES: &str = "--bounding-set=-all --inh-caps=-all";

#[test]
fn another_process_of_the_same_user_cannot_read_the_memory_and_a_crash_dumps_none() {
    inside("start::another_process_of_the_same_user_cannot_read_the_memory_and_a_crash_dumps_none", async {
        // A process with more privileges than the one that reads is protected by that alone: all have none.
        let mut server = ServerProcess::prepare(&[]);
        run_through(&mut server, &format!("exec setpriv {NO_PRIVILEGES}"));
        server.start_again().await;
        server.init().await;
        server.unseal().await;
        let mut sleep = Command::new("setpriv");
        sleep.args(NO_PRIVILEGES.split(' ')).args(["sleep", "600"]);
        let mut open =
            sleep.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let command = format!("/proc/{}/comm", open.id());
        until("it sleeps", || async {
            (std::fs::read_to_string(&command).unwrap() == "sleep\n").then_some(())
        })
        .await;
        let read = same_user_reads(open.id());
        open.kill().unwrap();
        open.wait().unwrap();
        assert!(read, "what is not protected can be read");
        let processes = processes(&server);
        assert_eq!(processes.len(), 2);
        for id in processes {
            assert!(!same_user_reads(id), "process {id} can be read");
            let limit = line_of(id, "limits", "Max core file size");
            assert_eq!(limit.split_ascii_whitespace().take(2).collect::<Vec<_>>(), ["0", "0"]);
        }
    });
}

#[test]
fn a_server_that_may_not_lock_memory_says_so_in_its_status_and_log() {
    inside("start::a_server_that_may_not_lock_memory_says_so_in_its_status_and_log", async {
        let mut process = ServerProcess::prepare(&[]);
        run_through(&mut process, "ulimit -l 0 && exec");
        process.start_again().await;
        process.init().await;
        process.unseal().await;
        assert_eq!(line_of(process.id(), "status", "VmLck:"), "0 kB");
        assert_eq!(children_of(process.id()).unwrap().len(), 1);
        assert!(!mappings(process.id()).iter().any(|mapping| mapping.has("lo")));

        let status = process.local().system().status().await.unwrap();
        assert!(!status.memory_locked);
        let said = |text: &str| text.contains("not in locked memory") && text.contains("ulimit -l");
        assert!(status.warnings.iter().any(|warning| said(warning)), "{:?}", status.warnings);
        let log = process.stderr();
        assert!(log.lines().any(|line| line.contains("WARN") && said(line)), "{log}");
    });
}

/// Lets the server be started by a shell command that its own program and arguments are put behind.
fn run_through(process: &mut ServerProcess, command: &str) {
    let script = process.dir().join("start-server");
    let text = format!("#!/bin/sh\n{command} '{}' \"$@\"\n", server().display());
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o700)).unwrap();
    process.run_instead(script);
}

/// Whether a process without privileges, of the user that runs this one, can open another's memory.
fn same_user_reads(id: u32) -> bool {
    let probe = Command::new("setpriv")
        .args(NO_PRIVILEGES.split(' '))
        .args(["dd", "count=0", "status=none"])
        .arg(format!("if=/proc/{id}/mem"))
        .stderr(Stdio::piped())
        .output()
        .expect("setpriv of util-linux is needed");
    let said = String::from_utf8_lossy(&probe.stderr);
    assert!(probe.status.success() || said.contains("Permission denied"), "{said}");
    probe.status.success()
}
