//! One child process and the requests that wait for it. Invariant: every request is answered exactly once, at the latest
//! when the child is gone; a child that is given up is killed. Absent: restarting (`supervisor`). A thread reads and a
//! thread writes, so that no caller's thread ever blocks on a child that hangs.

use std::collections::HashMap;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use keystead_crypto::ports::HsmError;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::config::HsmConfig;
use crate::frame::read_frame;
use crate::protocol::{Reply, Request, decode_answer};

/// Receives the one answer to a request.
pub(crate) type Deliver = Box<dyn FnOnce(Result<Reply, HsmError>) + Send>;

/// A running child. Dropping the last holder ends it.
pub(crate) struct Connection(Arc<Line>);

struct Line {
    pid: u32,
    process: OwnedFd,
    socket: UnixStream,
    outgoing: mpsc::Sender<Zeroizing<Vec<u8>>>,
    waiting: Mutex<Waiting>,
    reaped: Condvar,
}

#[derive(Default)]
struct Waiting {
    next: u64,
    requests: HashMap<u64, (Instant, Deliver)>,
    ended: Option<HsmError>,
    reaped: bool,
}

impl Connection {
    /// Starts a child. Must be called on a thread that outlives it: the child dies with the thread that started it.
    /// `ended` runs when it is gone.
    pub(crate) fn start(config: &HsmConfig, ended: impl FnOnce() + Send + 'static) -> Result<Self, HsmError> {
        let (ours, theirs) = UnixStream::pair().map_err(|error| no_child("no socket pair", &error))?;
        let reading = ours.try_clone().map_err(|error| no_child("no socket", &error))?;
        let writing = ours.try_clone().map_err(|error| no_child("no socket", &error))?;
        let (child, process) = spawn(config, theirs)?;
        let (outgoing, frames) = mpsc::channel();
        let line = Arc::new(Line {
            pid: child.id(),
            process,
            socket: ours,
            outgoing,
            waiting: Mutex::default(),
            reaped: Condvar::new(),
        });
        let connection = Self(Arc::clone(&line));
        let threads = named("hsm-write", move || write_all(writing, &frames))
            .and_then(|()| named("hsm-read", move || read_all(&line, reading, child, ended)));
        threads.map_err(|error| no_child("no thread", &error))?;
        Ok(connection)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.pid
    }

    /// Sends a request; `deliver` is called once, maybe before this returns.
    pub(crate) fn send(&self, request: &Request, deliver: Deliver) {
        let mut waiting = self.0.waiting();
        if let Some(error) = waiting.ended.clone() {
            drop(waiting);
            return deliver(Err(error));
        }
        let id = waiting.next;
        waiting.next = id.wrapping_add(1);
        match request.encode(id) {
            Ok(frame) => {
                waiting.requests.insert(id, (Instant::now(), deliver));
                // A writer that is gone has ended the line or is about to, which answers all that waits.
                let _ = self.0.outgoing.send(frame);
            }
            Err(error) => {
                drop(waiting);
                deliver(Err(HsmError::Unsupported { what: error.to_string() }));
            }
        }
    }

    /// Sends a request and waits on this thread.
    pub(crate) fn ask(&self, request: &Request, deadline: Duration) -> Result<Reply, HsmError> {
        let (deliver, answer) = mpsc::channel();
        // The receiver may have given up by then.
        self.send(request, Box::new(move |reply| drop(deliver.send(reply))));
        match answer.recv_timeout(deadline) {
            Ok(reply) => reply,
            Err(_) => {
                self.end(unavailable("its process was ended at a deadline"));
                Err(deadline_exceeded(deadline))
            }
        }
    }

    /// Ends the child if a request has waited longer than the deadline.
    pub(crate) fn enforce(&self, deadline: Duration) {
        let mut overdue = Vec::new();
        let mut waiting = self.0.waiting();
        let late: Vec<u64> = waiting
            .requests
            .iter()
            .filter(|(_, (since, _))| since.elapsed() >= deadline)
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            overdue.extend(waiting.requests.remove(&id));
        }
        drop(waiting);
        if !overdue.is_empty() {
            self.end(unavailable("its process was ended at another call's deadline"));
        }
        for (_, deliver) in overdue {
            deliver(Err(deadline_exceeded(deadline)));
        }
    }

    /// Why the child is given up, if it is.
    pub(crate) fn ended(&self) -> Option<HsmError> {
        self.0.waiting().ended.clone()
    }

    /// Gives the child up: kills it and answers all that waits.
    pub(crate) fn end(&self, reason: HsmError) {
        self.0.end(reason);
    }

    /// Waits until the process is off the process table; one that hangs in the kernel may outlast the limit.
    pub(crate) fn wait_reaped(&self, limit: Duration) {
        let waiting = self.0.waiting();
        drop(self.0.reaped.wait_timeout_while(waiting, limit, |waiting| !waiting.reaped));
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.end(HsmError::NotLoggedIn);
    }
}

impl Line {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, reason: HsmError) {
        let requests = {
            let mut waiting = self.waiting();
            waiting.ended.get_or_insert_with(|| reason.clone());
            std::mem::take(&mut waiting.requests)
        };
        // Both fail only when the child is gone already.
        let _ = pidfd_send_signal(&self.process, Signal::KILL);
        let _ = self.socket.shutdown(Shutdown::Both);
        for (_, deliver) in requests.into_values() {
            deliver(Err(reason.clone()));
        }
    }

    fn answer(&self, id: u64, answer: Result<Reply, HsmError>) {
        let spent = match &answer {
            Err(error @ HsmError::Unavailable { .. }) => Some(error.clone()),
            _ => None,
        };
        let request = {
            let mut waiting = self.waiting();
            if let Some(error) = &spent {
                waiting.ended.get_or_insert_with(|| error.clone());
            }
            waiting.requests.remove(&id)
        };
        if let Some((_, deliver)) = request {
            deliver(answer);
        }
        if let Some(error) = spent {
            self.end(error);
        }
    }
}

fn spawn(config: &HsmConfig, socket: UnixStream) -> Result<(Child, OwnedFd), HsmError> {
    let mut command = Command::new(&config.worker_exe);
    command
        .args(&config.worker_args)
        .env_clear()
        .envs(config.env.iter().map(|(name, value)| (name, value)))
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(socket)))
        .stdout(Stdio::null())
        // A group of its own: Ctrl-C at a terminal must not take the module away while the server still drains.
        .process_group(0);
    let mut child = command.spawn().map_err(|error| HsmError::Misconfigured {
        what: format!("the HSM worker {} does not start: {error}", config.worker_exe.display()),
    })?;
    let process = Pid::from_raw(i32::try_from(child.id()).unwrap_or_default())
        .ok_or(rustix::io::Errno::SRCH)
        .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()));
    match process {
        Ok(process) => Ok((child, process)),
        Err(error) => {
            // It is our child still, so that the number cannot be another's.
            let _ = child.kill();
            let _ = child.wait();
            Err(no_child("no handle of the process", &error.into()))
        }
    }
}

fn write_all(mut to: UnixStream, frames: &mpsc::Receiver<Zeroizing<Vec<u8>>>) {
    for frame in frames {
        if to.write_all(&frame).is_err() {
            // The reader sees the same end, and tells.
            return;
        }
    }
}

fn read_all(line: &Line, mut from: UnixStream, mut child: Child, ended: impl FnOnce()) {
    let reason = loop {
        match read_frame(&mut from) {
            Ok(Some(frame)) => match decode_answer(&frame) {
                Ok((id, answer)) => line.answer(id, answer),
                Err(error) => break format!("its process answered nonsense: {error}"),
            },
            Ok(None) => break "its process ended".to_owned(),
            Err(error) => break format!("its process cannot be read: {error}"),
        }
    };
    line.end(HsmError::Unavailable { reason });
    // Killed just now; waiting only takes it off the process table.
    let _ = child.wait();
    line.waiting().reaped = true;
    line.reaped.notify_all();
    ended();
}

fn named(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.to_owned()).spawn(body).map(drop)
}

fn no_child(what: &str, error: &io::Error) -> HsmError {
    HsmError::Unavailable { reason: format!("{what} for its process: {error}") }
}

fn unavailable(reason: &str) -> HsmError {
    HsmError::Unavailable { reason: reason.to_owned() }
}

fn deadline_exceeded(deadline: Duration) -> HsmError {
    HsmError::DeadlineExceeded { millis: u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX) }
}
