//! `whoami`: who the server takes the caller for.

use serde_json::json;

use super::{Connect, timestamp};
use crate::error::CliError;
use crate::output::Output;

pub(crate) async fn run(connect: Connect<'_>, output: &Output) -> Result<(), CliError> {
    let me = connect.connect().await?.auth().who_am_i().await?;
    let expires = timestamp(me.expire_time.as_ref());
    output.facts(
        &[
            ("Principal", me.principal.clone()),
            ("Groups", me.groups.join(", ")),
            ("Method", me.method.clone()),
            ("Until", expires.clone()),
        ],
        &json!({ "principal": me.principal, "groups": me.groups, "method": me.method, "expire_time": expires }),
    )
}
