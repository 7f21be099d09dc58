//! Real servers in private directories, for tests. Invariant: nothing of the system's is used but its programs; a server
//! that is not installed is an error, never a reason to leave a test out. Absent: anything a production server calls.

#[cfg(feature = "postgres")]
pub mod postgres;
