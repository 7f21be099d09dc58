//! What the operating system tells the server and is told by it: systemd's notify protocol and signals.
//! Invariant: a failure to notify is reported and stops nothing; SIGTERM and SIGINT drain, SIGHUP reloads.
//!
//! Absent on purpose: libsystemd; the protocol is one datagram.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Tells systemd about the server's state, if it asked for that.
#[derive(Debug, Clone, Default)]
pub struct Notifier {
    socket: Option<PathBuf>,
}

impl Notifier {
    /// A notifier for the socket of `NOTIFY_SOCKET`, or one that does nothing.
    pub fn new(socket: Option<&PathBuf>) -> Self {
        Self { socket: socket.cloned() }
    }

    /// The server takes requests.
    pub fn ready(&self) {
        self.send("READY=1");
    }

    /// The server drains.
    pub fn stopping(&self) {
        self.send("STOPPING=1");
    }

    fn send(&self, message: &str) {
        let Some(socket) = &self.socket else { return };
        if let Err(error) = send(socket, message) {
            tracing::warn!(%error, message, "systemd could not be notified");
        }
    }
}

fn send(socket: &Path, message: &str) -> io::Result<()> {
    let address = match socket.as_os_str().as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    let datagram = UnixDatagram::unbound()?;
    datagram.set_nonblocking(true)?;
    datagram.send_to_addr(message.as_bytes(), &address)?;
    Ok(())
}

/// The signals that the server minds; registered when made, so that none is lost afterwards.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// Starts minding them.
    pub fn register() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Calls `reload` at each SIGHUP and returns the name of the signal that asks for a stop.
    pub async fn until_stop(&mut self, mut reload: impl FnMut()) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.hangup.recv() => reload(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_systemd_over_a_path_and_an_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let receiver = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier::new(Some(&path));
        notifier.ready();
        notifier.stopping();
        let mut buffer = [0; 64];
        let read = receiver.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..read], b"READY=1");
        let read = receiver.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..read], b"STOPPING=1");

        let name = format!("keystead-notify-{}", std::process::id());
        let receiver = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        Notifier::new(Some(&PathBuf::from(format!("@{name}")))).ready();
        let read = receiver.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..read], b"READY=1");
    }

    #[test]
    fn nobody_to_tell_is_no_error() {
        Notifier::default().ready();
        Notifier::new(Some(&PathBuf::from("/nonexistent/notify"))).ready();
    }

    #[tokio::test]
    async fn hangup_reloads_and_terminate_stops() {
        let mut signals = Signals::register().unwrap();
        let own = rustix::process::getpid();
        rustix::process::kill_process(own, rustix::process::Signal::HUP).unwrap();
        let mut reloads = 0;
        let stop = signals.until_stop(|| {
            reloads += 1;
            rustix::process::kill_process(own, rustix::process::Signal::TERM).unwrap();
        });
        assert_eq!(stop.await, "SIGTERM");
        assert_eq!(reloads, 1);
    }
}
