//! Which faults are on, and how often each has happened. Invariant: the control file is looked at before every call, and
//! a mistake in it ends the process. Absent: pointers.

use std::collections::HashMap;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use cryptoki_sys::*;

use crate::iv::Sessions;
use crate::lies::Exchange;
use crate::record::Record;
use crate::rules::{self, Effect, Entry, Iv, Output, Rule};

/// The whole state of the library.
#[derive(Default)]
pub(crate) struct Engine {
    source: Option<Source>,
    current: Mutex<Current>,
    /// Keys that operations began with, by function, newest last.
    keys: Mutex<HashMap<&'static str, Vec<CK_OBJECT_HANDLE>>>,
    pub(crate) sessions: Sessions,
}

struct Source {
    control: PathBuf,
    record: Record,
    fired_before: HashMap<String, u64>,
}

#[derive(Default)]
struct Current {
    stamp: Option<Stamp>,
    rules: Vec<Arc<Live>>,
}

/// Tells one state of the control file from another.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    length: u64,
    changed: (i64, i64),
}

/// A fault that is on.
pub(crate) struct Live {
    pub(crate) rule: Rule,
    progress: Mutex<Progress>,
    pub(crate) exchange: Exchange,
}

#[derive(Default)]
struct Progress {
    calls: u64,
    fired: u64,
}

impl Live {
    fn left(&self, progress: &Progress) -> bool {
        self.rule.times.is_none_or(|times| progress.fired < times)
    }

    /// Counts a call; whether the fault is due.
    fn due(&self) -> bool {
        let mut progress = lock(&self.progress);
        progress.calls += 1;
        progress.calls > self.rule.after && self.left(&progress)
    }

    /// Whether the next call would find it due.
    fn would(&self) -> bool {
        let progress = lock(&self.progress);
        progress.calls >= self.rule.after && self.left(&progress)
    }
}

/// The one engine of this process.
pub(crate) fn engine() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| match std::env::var_os("KEYSTEAD_SHIM_CONTROL") {
        None => Engine::default(),
        Some(control) => {
            let control = PathBuf::from(control);
            match Record::open(&control) {
                Ok((record, fired_before)) => {
                    Engine { source: Some(Source { control, record, fired_before }), ..Engine::default() }
                }
                Err(error) => give_up(&format!("no log beside {}: {error}", control.display())),
            }
        }
    })
}

impl Engine {
    /// Logs a call and does what is to be done before the real module is asked; an answer stands for the module's.
    pub(crate) fn enter(&self, function: &'static str) -> Option<CK_RV> {
        if let Some(source) = &self.source {
            source.record.call(function);
        }
        for live in self.rules() {
            let Effect::Entry(entry) = &live.rule.effect else { continue };
            if !live.rule.on.contains(&function) || !concerns(entry, function) || !live.due() {
                continue;
            }
            self.fire(&live, function);
            if let Some(answer) = act(entry, function) {
                return Some(answer);
            }
        }
        None
    }

    /// Counts that a fault happened.
    pub(crate) fn fire(&self, live: &Live, function: &'static str) {
        lock(&live.progress).fired += 1;
        if let Some(source) = &self.source {
            source.record.fired(&live.rule.name, function);
        }
    }

    /// The lies that are due for an answer of this function.
    pub(crate) fn lies(&self, function: &'static str) -> Vec<Arc<Live>> {
        self.on(function).filter(|live| matches!(live.rule.effect, Effect::Output(_)) && live.due()).collect()
    }

    /// How much longer than the truth the next answer will be.
    pub(crate) fn excess(&self, function: &'static str) -> usize {
        let extra = self.on(function).filter_map(|live| match live.rule.effect {
            Effect::Output(Output::Long(by)) if live.would() => Some(by),
            _ => None,
        });
        extra.sum()
    }

    /// Another key for an operation that begins with this one, if that is a fault and there is another.
    pub(crate) fn key(&self, function: &'static str, key: CK_OBJECT_HANDLE) -> CK_OBJECT_HANDLE {
        let known = lock(&self.keys);
        let other = known.get(function).and_then(|keys| keys.iter().rev().find(|other| **other != key));
        let Some(other) = other.copied() else { return key };
        for live in self.on(function) {
            if live.rule.effect == Effect::OtherKey && live.due() {
                self.fire(&live, function);
                return other;
            }
        }
        key
    }

    /// Remembers that an operation began with this key.
    pub(crate) fn saw_key(&self, function: &'static str, key: CK_OBJECT_HANDLE) {
        let mut known = lock(&self.keys);
        let keys = known.entry(function).or_default();
        keys.retain(|other| *other != key);
        keys.push(key);
    }

    /// The rule for IVs, if AES-GCM makes its own.
    pub(crate) fn iv(&self, function: &'static str) -> Option<Iv> {
        self.on(function).find_map(|live| match live.rule.effect {
            Effect::Iv(iv) if live.due() => {
                self.fire(&live, function);
                Some(iv)
            }
            _ => None,
        })
    }

    /// Never returns if the answer of this function is not to come.
    pub(crate) fn mute(&self, function: &'static str) {
        let muted = self.on(function).find(|live| live.rule.effect == Effect::Mute && live.due());
        if let Some(live) = muted {
            self.fire(&live, function);
            loop {
                std::thread::park();
            }
        }
    }

    /// The faults of searches and attributes that are due.
    pub(crate) fn due(&self, function: &'static str) -> Vec<Arc<Live>> {
        self.on(function)
            .filter(|live| matches!(live.rule.effect, Effect::Twice | Effect::Attribute { .. }) && live.due())
            .collect()
    }

    /// The real number of a mechanism, or the refusal of a hidden one.
    pub(crate) fn admit(
        &self,
        function: &'static str,
        mechanism: CK_MECHANISM_TYPE,
    ) -> Result<CK_MECHANISM_TYPE, CK_RV> {
        for live in self.rules() {
            match &live.rule.effect {
                Effect::Vendor(number) if *number == mechanism => {
                    self.fire(&live, function);
                    return Ok(CKM_AES_GCM);
                }
                Effect::Hide(hidden) if hidden.contains(&mechanism) => {
                    self.fire(&live, function);
                    return Err(CKR_MECHANISM_INVALID);
                }
                _ => {}
            }
        }
        Ok(mechanism)
    }

    /// A token's mechanisms as they shall look.
    pub(crate) fn mechanisms(&self, function: &'static str, real: &mut Vec<CK_MECHANISM_TYPE>) {
        for live in self.rules() {
            match &live.rule.effect {
                Effect::Vendor(number) => real.push(*number),
                Effect::Hide(hidden) => real.retain(|mechanism| !hidden.contains(mechanism)),
                _ => continue,
            }
            self.fire(&live, function);
        }
    }

    pub(crate) fn record(&self) -> Option<&Record> {
        self.source.as_ref().map(|source| &source.record)
    }

    fn on(&self, function: &'static str) -> impl Iterator<Item = Arc<Live>> {
        self.rules().into_iter().filter(move |live| live.rule.on.contains(&function))
    }

    /// The faults that are on now.
    fn rules(&self) -> Vec<Arc<Live>> {
        let Some(source) = &self.source else { return Vec::new() };
        let stamp = std::fs::metadata(&source.control).ok().map(|data| Stamp {
            inode: data.ino(),
            length: data.len(),
            changed: (data.mtime(), data.mtime_nsec()),
        });
        let mut current = lock(&self.current);
        if current.stamp != stamp {
            let text = std::fs::read_to_string(&source.control).unwrap_or_default();
            let former = std::mem::take(&mut current.rules);
            current.rules = match rules::parse(&text) {
                Ok(rules) => rules.into_iter().map(|rule| source.live(rule, &former)).collect(),
                Err(error) => {
                    source.record.mistake(&error);
                    give_up(&error)
                }
            };
            current.stamp = stamp;
        }
        current.rules.clone()
    }
}

impl Source {
    /// A rule goes on from where it was, in this process or before.
    fn live(&self, rule: Rule, former: &[Arc<Live>]) -> Arc<Live> {
        if let Some(same) = former.iter().find(|live| live.rule == rule) {
            return Arc::clone(same);
        }
        let fired = self.fired_before.get(&rule.name).copied().unwrap_or_default();
        let progress = Mutex::new(Progress { calls: 0, fired });
        Arc::new(Live { rule, progress, exchange: Exchange::default() })
    }
}

/// Whether an absent token matters to a function.
fn concerns(entry: &Entry, function: &str) -> bool {
    let apart =
        ["C_Initialize", "C_Finalize", "C_GetInfo", "C_GetSlotInfo", "C_GetSlotList", "C_WaitForSlotEvent"];
    !matches!(entry, Entry::Pulled(_)) || !apart.contains(&function)
}

fn act(entry: &Entry, function: &str) -> Option<CK_RV> {
    let of_slot =
        ["C_GetTokenInfo", "C_GetMechanismList", "C_GetMechanismInfo", "C_OpenSession", "C_InitToken"];
    match entry {
        Entry::Delay(time) => {
            std::thread::sleep(*time);
            None
        }
        Entry::Hang => loop {
            std::thread::park();
        },
        Entry::Abort => std::process::abort(),
        Entry::Exit(code) => std::process::exit(*code),
        Entry::Pulled(_) if of_slot.contains(&function) => Some(CKR_TOKEN_NOT_PRESENT),
        Entry::Return(code) | Entry::Pulled(code) => Some(*code),
    }
}

impl Engine {
    /// Whether there is no token in any slot.
    pub(crate) fn pulled(&self, function: &'static str) -> bool {
        let rules = self.rules();
        let pulled = rules.iter().find(|live| matches!(live.rule.effect, Effect::Entry(Entry::Pulled(_))));
        if let Some(live) = pulled.filter(|live| live.due()) {
            self.fire(live, function);
            return true;
        }
        false
    }
}

/// Ends the process, saying why: a test must not go on with faults that nobody asked for.
fn give_up(error: &str) -> ! {
    let _ = writeln!(std::io::stderr(), "keystead-pkcs11-shim: {error}");
    std::process::abort()
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
