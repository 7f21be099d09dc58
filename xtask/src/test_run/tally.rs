//! How many tests passed, failed and were skipped, read from what the runners left.
//!
//! Invariant: a run that executed nothing is no good run, and a runner's own exit code counts beside the numbers.

use anyhow::{Context, Result};

/// The sum over all runners.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    passed: u64,
    failed: u64,
    /// A runner said no, whatever it counted: a crash, or a test that did not compile.
    broken: Vec<&'static str>,
}

impl Tally {
    /// Adds what nextest wrote in its JUnit report: `<testsuites … tests="12" failures="1" errors="0" …>`.
    pub(super) fn add_junit(&mut self, report: &str) -> Result<()> {
        let head = report.split_once("<testsuites ").and_then(|(_, rest)| rest.split_once('>'));
        let (head, _) = head.context("the JUnit report has no `testsuites`")?;
        let number =
            |name: &str| attribute(head, name).with_context(|| format!("the JUnit report has no `{name}`"));
        let failed = number("failures")? + number("errors")?;
        self.passed += number("tests")?.saturating_sub(failed);
        self.failed += failed;
        Ok(())
    }

    /// Adds a closing line of rustdoc's runner: `test result: ok. 3 passed; 0 failed; …`; other lines do nothing.
    pub(super) fn add_libtest_line(&mut self, line: &str) {
        let Some(result) = line.strip_prefix("test result: ") else { return };
        let count = |what: &str| {
            let before = result.split(';').find_map(|part| part.trim().strip_suffix(what))?;
            before.split_whitespace().next_back()?.parse::<u64>().ok()
        };
        self.passed += count("passed").unwrap_or(0);
        self.failed += count("failed").unwrap_or(0);
    }

    /// Notes that a runner failed.
    pub(super) fn broke(&mut self, runner: &'static str) {
        self.broken.push(runner);
    }

    /// Whether at least one test ran and none failed.
    pub(crate) fn good(&self) -> bool {
        self.broken.is_empty() && self.failed == 0 && self.passed > 0
    }

    /// What a person and a machine look for at the end.
    pub(crate) fn closing_line(&self) -> String {
        let mut line = String::new();
        for runner in &self.broken {
            line.push_str(&format!("failed: {runner}\n"));
        }
        line.push_str(&format!("tests: {} passed, {} failed", self.passed, self.failed));
        line
    }
}

fn attribute(head: &str, name: &str) -> Option<u64> {
    let (_, rest) = head.split_once(&format!("{name}=\""))?;
    let (value, _) = rest.split_once('"')?;
    value.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_runners_are_summed() {
        let mut tally = Tally::default();
        tally
            .add_junit(r#"<?xml?><testsuites name="nextest-run" tests="12" failures="0" errors="0" uuid="a" time="1.0"><t/>"#)
            .unwrap();
        tally.add_libtest_line("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out");
        tally.add_libtest_line("test keystead_client::connect ... ok");
        assert!(tally.good());
        assert_eq!(tally.closing_line(), "tests: 15 passed, 0 failed");
    }

    #[test]
    fn failures_errors_and_crashes_are_no_good_run() {
        let mut tally = Tally::default();
        tally.add_junit(r#"<testsuites tests="12" failures="1" errors="2">"#).unwrap();
        assert_eq!(tally.closing_line(), "tests: 9 passed, 3 failed");
        assert!(!tally.good());

        let mut crashed = Tally { passed: 5, ..Tally::default() };
        crashed.broke("documentation tests");
        assert!(!crashed.good());
        assert_eq!(crashed.closing_line(), "failed: documentation tests\ntests: 5 passed, 0 failed");
    }

    #[test]
    fn nothing_executed_is_no_good_run() {
        assert!(!Tally::default().good());
    }

    #[test]
    fn a_report_of_another_shape_is_an_error() {
        assert!(Tally::default().add_junit("<testsuites tests=\"1\">").is_err());
        assert!(Tally::default().add_junit("").is_err());
    }
}
