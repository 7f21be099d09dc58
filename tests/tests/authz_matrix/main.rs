//! Who may call what, in every state of the vault: every rpc of the descriptor set × every kind of caller × uninitialized,
//! sealed, unsealed. The table is what is promised; an rpc without a row fails.
//!
//! Invariant: a refusal is the same, to the byte, for what exists and for what does not.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod calls;
mod rpcs;
mod table;
mod world;

use tonic::Code;

use self::calls::Answer;
use self::rpcs::rpcs;
use self::table::{CALLERS, Caller, Row, TABLE};
use self::world::World;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Uninitialized,
    Sealed,
    Unsealed,
}

#[test]
fn every_rpc_has_a_row_and_every_row_an_rpc() {
    let rpcs = rpcs();
    let mut wrong = Vec::new();
    for rpc in &rpcs {
        assert!(!rpc.client_streaming, "{}: calls.rs sends one message only", rpc.name);
        match TABLE.iter().filter(|row| row.rpc == rpc.name).count() {
            1 => {}
            0 => wrong.push(format!(
                "{0} has no row. If only policies grant it, add this to table.rs, otherwise write out its cells:\n    \
                 Row {{\n        rpc: \"{0}\",\n        message: |at| v1::{1} {{ ..Default::default() }}.encode_to_vec(),\n        \
                 uninitialized: UNMADE,\n        sealed: SHUT,\n        unsealed: gated(NO, OK),\n        absent: OK,\n    }},",
                rpc.name, rpc.input,
            )),
            rows => wrong.push(format!("{} has {rows} rows", rpc.name)),
        }
    }
    for row in TABLE {
        if !rpcs.iter().any(|rpc| rpc.name == row.rpc) {
            wrong.push(format!("{} is no rpc: remove its row", row.rpc));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn every_cell_is_as_promised() {
    let mut world = World::uninitialized().await;
    let mut wrong = Vec::new();
    check(&mut world, State::Uninitialized, &mut wrong).await;
    world.init().await;
    world.seal().await;
    check(&mut world, State::Sealed, &mut wrong).await;
    world.unseal().await;
    check(&mut world, State::Unsealed, &mut wrong).await;
    assert!(wrong.is_empty(), "{} cells are wrong:\n{}", wrong.len(), wrong.join("\n"));
    world.nothing_happened_to_what_stands().await;
}

async fn check(world: &mut World, state: State, wrong: &mut Vec<String>) {
    for row in TABLE {
        let cells = match state {
            State::Uninitialized => &row.uninitialized,
            State::Sealed => &row.sealed,
            State::Unsealed => &row.unsealed,
        };
        for (caller, expected) in CALLERS.into_iter().zip(cells) {
            let (existing, absent) = both(world, row, caller, expected.0 == Code::Ok).await;
            let place = format!("{} by {caller:?}, {state:?}", row.rpc);
            let mut compare = |what: &str, expected: &table::Cell, answer: &Answer| {
                if (answer.code, answer.reason.as_str()) != *expected {
                    wrong.push(format!("{place}, {what}: expected {expected:?}, was {answer:?}"));
                }
            };
            compare("of what exists", expected, &existing);
            let Some(absent) = absent else { continue };
            if expected.0 == Code::Ok {
                compare("of what does not exist", &row.absent, &absent);
            } else if existing != absent {
                wrong.push(format!("{place}: what exists can be told apart: {existing:?}, {absent:?}"));
            }
        }
    }
}

/// The answers for something that exists and for something that does not; one only where the rpc is about neither.
async fn both(world: &mut World, row: &Row, caller: Caller, let_in: bool) -> (Answer, Option<Answer>) {
    let absent = world.absent();
    let second = (row.message)(&absent);
    // Who is let in may change or remove it; who is refused is shown the same thing as everybody, which must stay.
    let mut existing = world.standing();
    if (row.message)(&existing) != second && let_in {
        existing = world.fresh().await;
    }
    let first = (row.message)(&existing);
    let answer = world.call(caller, row.rpc, &first).await;
    let other = if first == second { None } else { Some(world.call(caller, row.rpc, &second).await) };
    world.after(row.rpc, answer.code).await;
    (answer, other)
}
