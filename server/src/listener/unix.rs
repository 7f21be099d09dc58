//! The Unix socket. Invariant: mode 0600 before anybody can connect, one listener at a time, and what is in the way
//! is removed only if it is a socket that nobody listens on.
//!
//! Absent on purpose: sockets in the abstract namespace, which have no permissions.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

use super::ListenError;

/// The bound socket; its file is removed when it is dropped.
#[derive(Debug)]
pub(super) struct LocalSocket {
    pub(super) listener: UnixListener,
    path: PathBuf,
}

impl LocalSocket {
    pub(super) async fn bind(path: &Path) -> Result<Self, ListenError> {
        let failed = |source| ListenError::Unix { path: path.to_owned(), source };
        match std::fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
            Ok(found) if !found.file_type().is_socket() => {
                return Err(ListenError::NotASocket { path: path.to_owned() });
            }
            Ok(_) => match UnixStream::connect(path).await {
                Ok(_) => return Err(ListenError::InUse { path: path.to_owned() }),
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    std::fs::remove_file(path).map_err(failed)?;
                }
                Err(error) => return Err(failed(error)),
            },
        }
        // Bound under another name with its mode set, then renamed: never reachable with a wider mode.
        let mut fresh = path.as_os_str().to_owned();
        fresh.push(".new");
        let fresh = PathBuf::from(fresh);
        match std::fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&fresh).map_err(failed)?;
        std::fs::set_permissions(&fresh, Permissions::from_mode(0o600)).map_err(failed)?;
        std::fs::rename(&fresh, path).map_err(failed)?;
        Ok(Self { listener, path: path.to_owned() })
    }
}

impl Drop for LocalSocket {
    fn drop(&mut self) {
        // Left behind, it is found dead and removed at the next start.
        drop(std::fs::remove_file(&self.path));
    }
}
