//! A server whose store acknowledges what it only holds in memory: this test binary, run again. Everything else in it is as in
//! the server's own binary.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keystead_core::clock::SystemClock;
use keystead_server::config::Config;
use keystead_server::env::Environment;
use keystead_server::{Built, Server};
use keystead_storage_rocksdb::{Options, RocksStorage};
use keystead_tests::Site;

const CONFIG: &str = "KEYSTEAD_TEST_CONFIG";

/// A program that is called like the server and runs [`server`].
pub(crate) fn program(site: &Site) -> PathBuf {
    let (own, worker) = (std::env::current_exe().unwrap(), keystead_tests::server());
    let script = format!(
        "#!/bin/sh\nexport {CONFIG}=\"$2\" KEYSTEAD_TEST_SERVER='{}'\n\
         exec '{}' --exact unsynced::server --ignored --nocapture\n",
        worker.display(),
        own.display(),
    );
    let path = site.dir().join("unsynced-server");
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by the test that ends it"]
async fn server() {
    let file = PathBuf::from(std::env::var_os(CONFIG).expect("run by another test"));
    let config = Config::load(&file, &Environment::default()).unwrap();
    let built = Built {
        clock: Arc::new(SystemClock::new()),
        hsm_worker: keystead_tests::server(),
        warnings: Vec::new(),
    };
    let open = |path: &Path| -> Result<Arc<dyn keystead_storage::Storage>, _> {
        Ok(Arc::new(RocksStorage::open(path, Options::unsynced_for_tests())?))
    };
    let server = Server::build_on(config, built, open).await.unwrap();
    writeln!(std::io::stderr(), "\nlistening; address={} metrics=None", server.local_addr()).unwrap();
    server.serve(std::future::pending()).await.unwrap();
}
