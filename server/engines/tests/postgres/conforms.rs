//! The checks that every engine passes.

use std::sync::Arc;

use async_trait::async_trait;
use keystead_core::engine::{Credential, Field, Link};
use keystead_domain::role::RoleRecord;
use keystead_engines::conformance::{self, Target};

use crate::site::{DATABASE, Site, orders, role};

struct Shop {
    site: Site,
    role: RoleRecord,
}

#[async_trait]
impl Target for Shop {
    fn link(&self) -> Arc<dyn Link> {
        self.site.new_link()
    }

    fn role(&self) -> RoleRecord {
        self.role.clone()
    }

    async fn lets_in(&self, credential: &Credential) -> bool {
        let find =
            |wanted: &str| credential.0.iter().find(|(name, _)| *name == wanted).map(|(_, field)| field);
        let (Some(Field::Plain(user)), Some(Field::Secret(password))) = (find("username"), find("password"))
        else {
            panic!("no user name and password");
        };
        self.site.server.login(user, password.expose(), DATABASE).await.is_ok()
    }

    fn ends_logins(&self) -> bool {
        true
    }

    async fn exceed(&self, on: bool) {
        let change =
            if on { "GRANT SELECT ON shop.payments TO" } else { "REVOKE SELECT ON shop.payments FROM" };
        self.site.run(&format!("{change} PUBLIC")).await;
    }
}

#[tokio::test]
async fn the_engine_keeps_the_ports_promises() {
    let site = Site::start().await;
    let role = role(orders());
    site.allow(&role).await;
    conformance::run(&Shop { site, role }).await.unwrap();
}
