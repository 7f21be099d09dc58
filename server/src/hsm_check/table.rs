//! A report for people. Invariant: what the token says is escaped, so that it cannot steer a terminal.

use std::fmt;

use keystead_hsm::report::{MechanismState, Outcome, Report};

/// A report and what is wrong with it.
pub(super) struct Table<'a> {
    pub(super) report: &'a Report,
    pub(super) problems: &'a [String],
}

impl fmt::Display for Table<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = self.report;
        token(out, report)?;
        writeln!(out, "\nmechanisms")?;
        for mechanism in &report.mechanisms {
            row(out, &mechanism.name, &describe(mechanism))?;
        }
        writeln!(out, "\nwrapping")?;
        for rung in &report.rungs {
            let used = report.mechanism.as_ref() == Some(&rung.name);
            let mark = match (used, rung.allowed) {
                (true, _) if report.logged_in => " <- used",
                (true, _) => " <- tried first",
                (false, true) => "",
                (false, false) => " (not allowed by hsm.mechanism)",
            };
            row(out, &rung.name, &format!("{}{mark}", outcome(&rung.test)))?;
        }
        if let Some(times) = &report.times {
            row(out, "wrap, unwrap", &format!("{} µs, {} µs", times.wrap_us, times.unwrap_us))?;
        }
        writeln!(out, "\nsignatures and random source")?;
        row(out, report.signature.as_deref().unwrap_or("none"), &outcome(&report.signature_test))?;
        row(out, "random source", &outcome(&report.random_test))?;
        if report.logged_in {
            writeln!(out, "\nkeys of vaults: {}", report.keys.len())?;
        }
        for key in &report.keys {
            row(out, &key.label, &outcome(&key.test))?;
        }
        writeln!(out)?;
        for problem in self.problems {
            writeln!(out, "problem: {}", problem.escape_debug())?;
        }
        if let Some(unseen) = report.unseen() {
            writeln!(out, "{unseen}")?;
        }
        out.write_str(match (self.problems.is_empty(), report.logged_in) {
            (true, true) => "usable\n",
            (true, false) => "nothing found that keeps a vault from using it\n",
            (false, _) => "not usable\n",
        })
    }
}

fn token(out: &mut fmt::Formatter<'_>, report: &Report) -> fmt::Result {
    let token = &report.token;
    writeln!(out, "token")?;
    row(out, "label", &token.label)?;
    row(out, "serial", &token.serial)?;
    row(out, "model", &token.model)?;
    row(out, "firmware", &token.firmware)?;
    let pin = match (token.pin_set, token.pin_locked, token.pin_final_try, token.pin_count_low) {
        (false, ..) => "not set",
        (_, true, ..) => "locked",
        (_, _, true, _) => "the next wrong one locks the token",
        (.., true) => "a wrong one was given since the last login",
        _ => "no wrong one since the last login",
    };
    let pin = format!("{pin}; {} to {} bytes", token.pin_min_bytes, token.pin_max_bytes);
    row(out, "PIN", &pin)
}

fn describe(mechanism: &MechanismState) -> String {
    if !mechanism.present {
        return "missing".to_owned();
    }
    let sizes =
        mechanism.key_sizes.map_or_else(String::new, |(least, most)| format!(", keys {least} to {most}"));
    format!("{}{sizes}", mechanism.uses.join(", "))
}

fn outcome(test: &Outcome) -> String {
    match test {
        Outcome::Passed => "ok".to_owned(),
        Outcome::NotTested => "not tried".to_owned(),
        Outcome::Failed { why } => format!("no: {why}"),
    }
}

fn row(out: &mut fmt::Formatter<'_>, name: &str, value: &str) -> fmt::Result {
    writeln!(out, "  {:<38} {}", name.escape_debug().to_string(), value.escape_debug())
}
