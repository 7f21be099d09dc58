//! A PostgreSQL server for a page. Invariant: whoever has its environment is its superuser by plain `psql`, as the
//! administrator of a database is.

use std::path::Path;

use keystead_engines::testing::postgres::PostgresServer;

pub(crate) struct Database {
    server: PostgresServer,
    // Its tasks end with it.
    _runtime: tokio::runtime::Runtime,
}

impl Database {
    /// Starts one, and writes the CA of its certificate to a file.
    pub(crate) fn start(ca_file: &Path) -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let server = runtime.block_on(PostgresServer::start()).unwrap();
        std::fs::write(ca_file, server.settings("postgres", "postgres").unwrap().ca_pem).unwrap();
        Self { server, _runtime: runtime }
    }

    /// How libpq's programs come in as its superuser.
    pub(crate) fn environment(&self) -> [(String, String); 3] {
        let (socket, port) = self.server.superusers_door();
        let variable = |name: &str, value: String| (name.to_owned(), value);
        [
            variable("PGHOST", socket.display().to_string()),
            variable("PGPORT", port.to_string()),
            variable("PGUSER", "postgres".to_owned()),
        ]
    }
}
