//! Figures for people and machines. Pure: measurements in, text and JSON out.

use std::fmt::Write;
use std::time::Duration;

use anyhow::Result;
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::plan::{self, Cell, Plan, Spent, Subject};

/// A whole run.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    cpus: usize,
    plan: Plan,
    /// One row a subject and number in flight.
    rows: Vec<Row>,
    /// Writes per second with the most in flight, divided by those of one writer.
    writers_gain: Option<f64>,
    /// CPUs that other processes used, and that the hypervisor took, in the worst measurement.
    worst_others: f64,
    worst_steal: f64,
    /// Every measurement.
    rounds: Vec<Measurement>,
}

/// All rounds of one subject at one number in flight.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    subject: Subject,
    in_flight: usize,
    /// Requests a second: the median of the rounds, the least and the most.
    rate: f64,
    rate_min: f64,
    rate_max: f64,
    p50_ms: f64,
    p99_ms: f64,
    /// CPU seconds for 1,000 requests.
    server_cpu: f64,
    hsm_cpu: f64,
    client_cpu: f64,
    /// The median of the rounds' ratios to the echo of the same round.
    rate_to_echo: Option<f64>,
    /// Server CPU, the HSM's process included, to the echo's.
    cpu_to_echo: Option<f64>,
}

/// One measurement.
#[derive(Debug, Serialize)]
struct Measurement {
    round: u32,
    subject: Subject,
    in_flight: usize,
    requests: u64,
    seconds: f64,
    rate: f64,
    p50_ms: f64,
    p99_ms: f64,
    server_cpu: f64,
    hsm_cpu: f64,
    client_cpu: f64,
    other_cpus: f64,
    stolen_cpus: f64,
    load_average: f64,
}

impl Summary {
    pub(crate) fn of(plan: &Plan, cells: &[Cell]) -> Result<Self> {
        let rows = plan::rows(plan, cells)?;
        let rounds: Vec<Measurement> = cells.iter().map(Measurement::of).collect();
        let worst =
            |of: fn(&Measurement) -> f64| rounds.iter().map(of).max_by(f64::total_cmp).unwrap_or_default();
        let mut writes = rows.iter().filter(|row| row.subject == Subject::Write);
        let one = writes.clone().find(|row| row.in_flight == 1);
        let most = writes.by_ref().max_by_key(|row| row.in_flight);
        let writers_gain = one.zip(most).and_then(|(one, most)| ratio(most.rate, one.rate));
        Ok(Self {
            cpus: std::thread::available_parallelism()?.get(),
            plan: plan.clone(),
            writers_gain,
            worst_others: worst(|measurement| measurement.other_cpus),
            worst_steal: worst(|measurement| measurement.stolen_cpus),
            rows,
            rounds,
        })
    }
}

impl Row {
    pub(crate) fn of(
        subject: Subject,
        in_flight: usize,
        mine: &[&Cell],
        echo: &[&Cell],
        latencies: &Histogram<u64>,
    ) -> Self {
        let mut rates: Vec<f64> = mine.iter().map(|cell| rate(cell)).collect();
        rates.sort_by(f64::total_cmp);
        let same_round = |cell: &&Cell| echo.iter().find(|echo| echo.round == cell.round);
        let mut ratios: Vec<f64> =
            mine.iter().filter_map(|cell| ratio(rate(cell), rate(same_round(cell)?))).collect();
        ratios.sort_by(f64::total_cmp);
        let per_1000 = |of: fn(&Spent) -> Duration| thousand(mine, of);
        let behind = |spent: &Spent| spent.server + spent.hsm;
        Self {
            subject,
            in_flight,
            rate: median(&rates).unwrap_or_default(),
            rate_min: rates.first().copied().unwrap_or_default(),
            rate_max: rates.last().copied().unwrap_or_default(),
            p50_ms: quantile(latencies, 0.5),
            p99_ms: quantile(latencies, 0.99),
            server_cpu: per_1000(|spent| spent.server),
            hsm_cpu: per_1000(|spent| spent.hsm),
            client_cpu: per_1000(|spent| spent.client),
            rate_to_echo: median(&ratios),
            cpu_to_echo: ratio(thousand(mine, behind), thousand(echo, behind)),
        }
    }
}

impl Measurement {
    fn of(cell: &Cell) -> Self {
        let one = [cell];
        let cpus = |time: Duration| ratio(time.as_secs_f64(), cell.took.as_secs_f64()).unwrap_or_default();
        Self {
            round: cell.round,
            subject: cell.subject,
            in_flight: cell.in_flight,
            requests: cell.latencies.len(),
            seconds: cell.took.as_secs_f64(),
            rate: rate(cell),
            p50_ms: quantile(&cell.latencies, 0.5),
            p99_ms: quantile(&cell.latencies, 0.99),
            server_cpu: thousand(&one, |spent| spent.server),
            hsm_cpu: thousand(&one, |spent| spent.hsm),
            client_cpu: thousand(&one, |spent| spent.client),
            other_cpus: cpus(cell.spent.others),
            stolen_cpus: cpus(cell.spent.stolen),
            load_average: cell.load_average,
        }
    }
}

/// The table that is printed.
pub(crate) fn table(summary: &Summary) -> String {
    let mut out = String::new();
    let plan = &summary.plan;
    let connections = if plan.one_connection { "one connection" } else { "a connection a caller" };
    let (rounds, seconds) = (plan.rounds, plan.seconds);
    let mut line = |text: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{text}");
    };
    line(format!("1 KiB values over TLS 1.3, {} CPUs for servers and callers together,", summary.cpus));
    line(format!(
        "{connections}, {rounds} alternating rounds of {seconds} s; CPU is seconds for 1,000 requests.\n"
    ));
    line(format!(
        "{:<18} {:>9} {:>9} {:>17} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>9}",
        "",
        "in flight",
        "per s",
        "least–most",
        "to echo",
        "p50 ms",
        "p99 ms",
        "server",
        "HSM",
        "caller",
        "CPU/echo"
    ));
    for row in &summary.rows {
        line(format!(
            "{:<18} {:>9} {:>9.0} {:>17} {:>8} {:>8.2} {:>8.2} {:>8.3} {:>8.3} {:>8.3} {:>9}",
            row.subject.title(),
            row.in_flight,
            row.rate,
            format!("{:.0}–{:.0}", row.rate_min, row.rate_max),
            row.rate_to_echo.map(|ratio| format!("{:.0} %", ratio * 100.0)).unwrap_or_default(),
            row.p50_ms,
            row.p99_ms,
            row.server_cpu,
            row.hsm_cpu,
            row.client_cpu,
            row.cpu_to_echo.map(|ratio| format!("{ratio:.2}")).unwrap_or_default(),
        ));
    }
    line(String::new());
    if let Some(gain) = summary.writers_gain {
        line(format!("Most writers against one: {gain:.1} times the writes a second."));
    }
    line(format!(
        "While measuring, other processes used up to {:.2} CPUs and the hypervisor took up to {:.2}.",
        summary.worst_others, summary.worst_steal
    ));
    if summary.worst_others + summary.worst_steal > 0.1 {
        line("That is not quiet: trust the ratios and the CPU columns more than the rates.".to_owned());
    }
    out
}

fn rate(cell: &Cell) -> f64 {
    ratio(number(cell.latencies.len()), cell.took.as_secs_f64()).unwrap_or_default()
}

fn thousand(cells: &[&Cell], of: fn(&Spent) -> Duration) -> f64 {
    let spent: Duration = cells.iter().map(|cell| of(&cell.spent)).sum();
    let requests: u64 = cells.iter().map(|cell| cell.latencies.len()).sum();
    ratio(spent.as_secs_f64() * 1000.0, number(requests)).unwrap_or_default()
}

fn quantile(latencies: &Histogram<u64>, quantile: f64) -> f64 {
    number(latencies.value_at_quantile(quantile)) / 1000.0
}

fn median(sorted: &[f64]) -> Option<f64> {
    let middle = sorted.len() / 2;
    let upper = sorted.get(middle).copied()?;
    match sorted.len() % 2 {
        1 => Some(upper),
        _ => sorted.get(middle.checked_sub(1)?).map(|lower| f64::midpoint(*lower, upper)),
    }
}

fn ratio(of: f64, to: f64) -> Option<f64> {
    (to > 0.0).then(|| of / to)
}

/// Counts of a run are far below the 52 bits that a float holds exactly; more would only saturate.
fn number(count: u64) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load;

    fn cell(subject: Subject, round: u32, in_flight: usize, requests: u64, cpu_ms: u64) -> Cell {
        let mut latencies = load::histogram().unwrap();
        latencies.record_n(2000, requests).unwrap();
        let server = Duration::from_millis(cpu_ms);
        let spent = Spent { server, ..Spent::default() };
        Cell { round, subject, in_flight, latencies, took: Duration::from_secs(2), spent, load_average: 0.0 }
    }

    fn plan(in_flight: &[usize]) -> Plan {
        Plan {
            rounds: 3,
            seconds: 2,
            in_flight: in_flight.to_vec(),
            subjects: vec![Subject::Echo, Subject::ReadOs, Subject::Write],
            one_connection: false,
        }
    }

    #[test]
    fn ratios_compare_within_a_round_and_take_the_median() {
        let mut cells = Vec::new();
        for (round, echo, read) in [(1, 1000, 500), (2, 100, 90), (3, 2000, 1600)] {
            cells.push(cell(Subject::Echo, round, 1, echo, echo / 10));
            cells.push(cell(Subject::ReadOs, round, 1, read, read / 5));
        }
        let summary = Summary::of(&plan(&[1]), &cells).unwrap();
        let read = summary.rows.iter().find(|row| row.subject == Subject::ReadOs).unwrap();
        assert_eq!((read.rate, read.rate_min, read.rate_max), (250.0, 45.0, 800.0));
        assert_eq!(read.rate_to_echo, Some(0.8));
        assert!((read.cpu_to_echo.unwrap() - 2.0).abs() < 1e-9);
        assert!((read.server_cpu - 0.2).abs() < 1e-9);
        assert!((read.p50_ms - 2.0).abs() < 0.01);
        assert!(table(&summary).contains("80 %"));
    }

    #[test]
    fn writers_are_compared_with_one_writer() {
        let cells = [cell(Subject::Write, 1, 1, 100, 1), cell(Subject::Write, 1, 64, 1500, 1)];
        let summary = Summary::of(&plan(&[1, 64]), &cells).unwrap();
        assert_eq!(summary.writers_gain, Some(15.0));
    }

    #[test]
    fn nothing_measured_is_no_division_by_zero() {
        let summary = Summary::of(&plan(&[1]), &[]).unwrap();
        assert!(!table(&summary).contains("NaN"));
    }
}
