//! The child process: the PKCS#11 module, its sessions, and nothing else. Reads requests from standard input (a socket)
//! and answers on it. Invariant: ends with its parent, leaves no core dump, keeps no PIN after logging in. Absent:
//! recovery; a worker whose device misbehaves says `Unavailable`, is ended by its parent, and a fresh one starts clean.

mod anchor;
mod cipher;
mod fault;
mod inspect;
mod jobs;
mod ladder;
mod module;
mod objects;
mod random;
mod selftest;
mod sign;
mod token;

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use keystead_crypto::ports::HsmError;
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, Signal, set_dumpable_behavior, set_parent_process_death_signal,
    setrlimit,
};
use rustix::thread::set_no_new_privs;

use crate::frame::read_frame;
use crate::protocol::{Reply, Request, encode_answer};
use jobs::Pool;
use token::Token;

/// Runs the child until its parent says so or is gone.
pub fn worker_main() -> ExitCode {
    match harden().and_then(|()| io::stdin().as_fd().try_clone_to_owned()) {
        Ok(socket) => serve(UnixStream::from(socket)),
        Err(_) => ExitCode::FAILURE,
    }
}

fn harden() -> io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    set_no_new_privs(true)?;
    // A parent that died before this line leaves a closed socket, which ends the worker too.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    Ok(())
}

/// The way back to the parent, shared by all threads.
#[derive(Clone)]
struct Answers(Arc<Mutex<UnixStream>>);

impl Answers {
    fn send(&self, id: u64, answer: &Result<Reply, HsmError>) -> io::Result<()> {
        let frame = encode_answer(id, answer).map_err(io::Error::other)?;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write_all(&frame)
    }
}

fn serve(mut requests: UnixStream) -> ExitCode {
    let Ok(back) = requests.try_clone() else { return ExitCode::FAILURE };
    let answers = Answers(Arc::new(Mutex::new(back)));
    let mut state = State::Fresh;
    loop {
        let frame = match read_frame(&mut requests) {
            Ok(Some(frame)) => frame,
            Ok(None) | Err(_) => return gone(),
        };
        let Ok((id, request)) = Request::decode(&frame) else { return gone() };
        drop(frame);
        if let Request::Shutdown = request {
            state.shut_down();
            return match answers.send(id, &Ok(Reply::Done)) {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::FAILURE,
            };
        }
        if let Some(answer) = state.take(id, request, &answers)
            && answers.send(id, &answer).is_err()
        {
            return gone();
        }
    }
}

/// Ends at once: the module may be busy in other threads, so neither finalizing it nor its exit handlers are safe.
fn gone() -> ExitCode {
    let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::KILL);
    ExitCode::FAILURE
}

/// How far the parent has brought us.
enum State {
    Fresh,
    Started { token: Arc<Token>, sessions: u8 },
    Working { token: Arc<Token>, pool: Pool },
}

impl State {
    /// Does a request of the start itself; gives every other one to the pool, which answers later.
    fn take(&mut self, id: u64, request: Request, answers: &Answers) -> Option<Result<Reply, HsmError>> {
        match (&mut *self, request) {
            (Self::Fresh, Request::Start(start)) => Some(Token::open(&start).map(|token| {
                let info = token.info().clone();
                *self = Self::Started { token: Arc::new(token), sessions: start.sessions };
                Reply::Token(info)
            })),
            (Self::Started { token, .. }, Request::Inspect { login }) => {
                Some(inspect::inspect(token, login).map(|report| Reply::Report(Box::new(report))))
            }
            (Self::Started { token, sessions }, Request::Login { pin, care }) => {
                let answer = token.login(pin, care).and_then(|()| {
                    let pool = Pool::start(token, *sessions, answers)?;
                    let info = token.info().clone();
                    Ok((Self::Working { token: Arc::clone(token), pool }, Reply::Token(info)))
                });
                Some(answer.map(|(next, reply)| {
                    *self = next;
                    reply
                }))
            }
            (Self::Working { pool, .. }, request) => match pool.give(id, request) {
                Ok(()) => None,
                Err(error) => Some(Err(error)),
            },
            (Self::Fresh | Self::Started { .. }, _) => Some(Err(HsmError::NotLoggedIn)),
        }
    }

    /// Waits for what is running, then logs out and finalizes the module.
    fn shut_down(self) {
        match self {
            Self::Fresh => {}
            Self::Started { token, .. } => token.close(),
            Self::Working { token, pool } => {
                pool.finish();
                token.close();
            }
        }
    }
}
