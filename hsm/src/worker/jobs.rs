//! The threads that call the module, each with a session of its own, fed by one queue. Invariant: a job is tried at most
//! twice, the second time only after a remedy. Absent: deadlines: a C call cannot be interrupted, so the parent keeps
//! the time and ends the process.

use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};

use cryptoki::session::Session;
use keystead_crypto::ports::HsmError;
use keystead_crypto::secret::SecretBytes;

use super::fault::{Fault, Remedy, remedy, verdict};
use super::token::{BoundKey, Token, lock};
use super::{Answers, anchor, objects, random, sign};
use crate::protocol::{Reply, Request};

type Job = (u64, Request);

/// The working threads.
pub(super) struct Pool {
    queue: mpsc::Sender<Job>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    pub(super) fn start(token: &Arc<Token>, sessions: u8, answers: &Answers) -> Result<Self, HsmError> {
        let (queue, jobs) = mpsc::channel::<Job>();
        let jobs = Arc::new(Mutex::new(jobs));
        let threads = (0..sessions)
            .map(|_| {
                let (token, jobs, answers) = (Arc::clone(token), Arc::clone(&jobs), answers.clone());
                thread::Builder::new().name("pkcs11".to_owned()).spawn(move || work(&token, &jobs, &answers))
            })
            .collect::<Result<_, _>>();
        let threads = threads
            .map_err(|error| HsmError::Unavailable { reason: format!("no thread for a session: {error}") })?;
        Ok(Self { queue, threads })
    }

    pub(super) fn give(&self, id: u64, request: Request) -> Result<(), HsmError> {
        self.queue
            .send((id, request))
            .map_err(|_| HsmError::Unavailable { reason: "every session's thread has ended".to_owned() })
    }

    /// Waits until all that was given is answered and the sessions are closed.
    pub(super) fn finish(self) {
        drop(self.queue);
        for thread in self.threads {
            // A thread that panicked has said so on standard error; the others still count.
            let _ = thread.join();
        }
    }
}

fn work(token: &Token, jobs: &Mutex<mpsc::Receiver<Job>>, answers: &Answers) {
    let mut session = None;
    loop {
        let next = lock(jobs).recv();
        let Ok((id, request)) = next else { return };
        let answer = with_remedies(token, &mut session, &request);
        if answers.send(id, &answer).is_err() {
            return;
        }
    }
}

fn with_remedies(token: &Token, session: &mut Option<Session>, request: &Request) -> Result<Reply, HsmError> {
    let first = match attempt(token, session, request) {
        Ok(reply) => return Ok(reply),
        Err(Fault::Answer(error)) => return Err(error),
        Err(Fault::Call(error)) => error,
    };
    match remedy(&first) {
        Remedy::Answer(error) => {
            // Whatever state the session is in, the next job gets a clean one.
            *session = None;
            return Err(error);
        }
        Remedy::NewSession => *session = None,
        Remedy::FindAgain => {
            *session = None;
            let fresh = token.session().map_err(|error| verdict(&error))?;
            token.find_again(&fresh)?;
            *session = Some(fresh);
        }
    }
    attempt(token, session, request).map_err(|fault| match fault {
        Fault::Answer(error) => error,
        Fault::Call(error) => {
            *session = None;
            verdict(&error)
        }
    })
}

fn attempt(token: &Token, session: &mut Option<Session>, request: &Request) -> Result<Reply, Fault> {
    let session = match session {
        Some(session) => session,
        None => session.insert(token.session()?),
    };
    match request {
        Request::Bind { vault_tag, keys } => {
            token.bind(session, *vault_tag, keys)?;
            Ok(Reply::Done)
        }
        Request::CreateKey { vault_tag, key } => {
            objects::create(session, *vault_tag, *key, token.ways()?)?;
            Ok(Reply::Done)
        }
        Request::DestroyKey { vault_tag, key } => {
            token.unbind(*vault_tag, *key);
            objects::destroy(session, *vault_tag, *key)?;
            Ok(Reply::Done)
        }
        Request::ListKeys { vault_tag } => Ok(Reply::Keys(objects::list(session, *vault_tag)?)),
        Request::ChangePin { current, new } => {
            let copy = |pin: &SecretBytes| SecretBytes::copy_from(pin.expose());
            token.change_pin(copy(current), copy(new))?;
            Ok(Reply::Done)
        }
        Request::Wrap { key, aad, plaintext } => {
            let BoundKey::Cipher { key, .. } = token.key(*key)? else { return Err(no_cipher()) };
            let sealed = token.cipher.seal(session, token.ways()?.rung, key, aad, plaintext.expose())?;
            Ok(Reply::Sealed(sealed))
        }
        Request::Unwrap { key, aad, sealed } => {
            let BoundKey::Cipher { key, known } = token.key(*key)? else { return Err(no_cipher()) };
            let opened = token.cipher.open(session, key, known.as_ref(), aad, sealed)?;
            Ok(Reply::Bytes(opened))
        }
        Request::WrapAndUnwrap { key, aad, plaintext } => {
            let BoundKey::Cipher { key, known } = token.key(*key)? else { return Err(no_cipher()) };
            let sealed = token.cipher.seal(session, token.ways()?.rung, key, aad, plaintext.expose())?;
            let opened = token.cipher.open(session, key, known.as_ref(), aad, &sealed)?;
            Ok(Reply::SealedAndOpened(sealed, opened))
        }
        Request::VerifyingKey => sign::verifying_key(session, token.audit_key()?).map(Reply::Key),
        Request::Sign { message } => sign::sign(session, token.audit_key()?, message).map(Reply::Bytes),
        Request::AnchorStore { counter, value } => {
            anchor::store(session, token, *counter, value)?;
            Ok(Reply::Done)
        }
        Request::AnchorLoad => Ok(Reply::Anchor(anchor::load(session, token.vault_tag()?)?)),
        Request::Random { bytes } => {
            let wanted = usize::try_from(*bytes).unwrap_or(usize::MAX);
            random::draw(session, &token.draws, wanted).map(Reply::Bytes)
        }
        Request::Start(_) | Request::Login { .. } | Request::Inspect { .. } | Request::Shutdown => {
            let what = "a start or login of a worker that has logged in".to_owned();
            Err(HsmError::Unsupported { what }.into())
        }
    }
}

fn no_cipher() -> Fault {
    HsmError::Unsupported { what: "wrapping under a key that signs".to_owned() }.into()
}
