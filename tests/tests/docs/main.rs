//! The documentation is true: its commands run, its links lead somewhere, and its list of errors is the code's.
//!
//! A block that begins with ```` ```console ```` is run by bash, all blocks of a page in one session and directory. A
//! line after `$ ` is a command, the lines below it what it prints: `…` stands for any text in a line, `...` alone for any
//! lines. A command fails exactly if the page shows a line that begins with `keystead: `. A block whose first line names a
//! file after its language is written to that file. Absent: commands in `sh` blocks, which start what a test does not.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, in its fixtures too"
)]

mod database;
mod errors;
mod examples;
mod links;
mod page;
mod programs;
mod session;

use database::Database;
use page::Page;
use programs::{DevServer, Programs};
use session::Session;

#[test]
fn the_tour_of_the_readme_is_what_happens() {
    against_a_dev_vault("README.md");
}

#[test]
fn the_commands_for_service_authors_work() {
    against_a_dev_vault("docs/guides/service-author.md");
}

#[test]
fn keys_are_rotated_as_the_guide_says() {
    against_a_dev_vault("docs/guides/key-rotation.md");
}

#[test]
fn the_ceremonies_go_as_their_checklists_say() {
    against_a_dev_vault("docs/guides/ceremonies.md");
}

#[test]
fn the_guide_to_postgresql_makes_logins_in_one_and_removes_them() {
    let programs = Programs::find();
    let mut session = Session::new(&programs);
    let server = DevServer::start(&programs, &session.place("server"));
    let database = Database::start(&session.dir().join("db-ca.pem"));
    let environment: Vec<_> = server.environment().iter().cloned().chain(database.environment()).collect();
    session.set_environment(&environment);
    session.run(&Page::read("docs/guides/postgresql.md"));
    server.stop();
}

#[test]
fn the_operators_rehearsal_makes_a_vault_serves_from_it_and_restores_it() {
    let programs = Programs::find();
    let session = Session::new(&programs);
    session.run(&Page::read("docs/guides/operator.md"));
    // Goes on with what that left.
    session.run(&Page::read("docs/guides/disaster-recovery.md"));
}

#[test]
fn the_guide_to_hsms_shows_what_a_check_prints() {
    let programs = Programs::find();
    Session::new(&programs).run(&Page::read("docs/guides/hsm.md"));
}

#[test]
fn the_architecture_fits_on_its_page() {
    let text = page::text("ARCHITECTURE.md");
    assert!(text.lines().count() < 300, "{} lines", text.lines().count());
}

fn against_a_dev_vault(path: &str) {
    let programs = Programs::find();
    let mut session = Session::new(&programs);
    let server = DevServer::start(&programs, &session.place("server"));
    session.set_environment(server.environment());
    session.run(&Page::read(path));
    server.stop();
}
