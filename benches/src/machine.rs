//! What the machine spent meanwhile: CPU of processes, stolen time, other load. Read from `/proc`, in clock ticks.

use std::time::Duration;

use anyhow::{Context, Result};

/// CPU time of one process, its threads included.
pub(crate) fn cpu_of(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    // utime and stime are fields 14 and 15; the name in field 2 may hold anything but ends at the last parenthesis.
    let (_, rest) = text.rsplit_once(')').with_context(|| format!("{path} has no name"))?;
    let mut fields = rest.split_whitespace().skip(11).map(str::parse::<u64>);
    let (user, system) = (fields.next(), fields.next());
    match (user, system) {
        (Some(Ok(user)), Some(Ok(system))) => Ok(ticks(user.saturating_add(system))),
        _ => anyhow::bail!("{path} has no CPU times"),
    }
}

/// The whole machine's CPU time since it started.
#[derive(Clone, Copy)]
pub(crate) struct Machine {
    busy: Duration,
    stolen: Duration,
}

impl Machine {
    pub(crate) fn now() -> Result<Self> {
        let text = std::fs::read_to_string("/proc/stat")?;
        let line = text.lines().next().context("/proc/stat is empty")?;
        let fields: Vec<u64> = line.split_whitespace().filter_map(|field| field.parse().ok()).collect();
        // user nice system idle iowait irq softirq steal
        let [user, nice, system, _, _, irq, softirq, steal, ..] = fields.as_slice() else {
            anyhow::bail!("/proc/stat has no CPU times");
        };
        Ok(Self { busy: ticks(user + nice + system + irq + softirq), stolen: ticks(*steal) })
    }

    /// CPU time since an earlier moment: used by all processes, and stolen by the hypervisor.
    pub(crate) fn since(self, earlier: Self) -> (Duration, Duration) {
        (self.busy.saturating_sub(earlier.busy), self.stolen.saturating_sub(earlier.stolen))
    }
}

/// The load average of the last minute.
pub(crate) fn load_average() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/loadavg")?;
    Ok(text.split_whitespace().next().context("/proc/loadavg is empty")?.parse()?)
}

fn ticks(count: u64) -> Duration {
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    Duration::from_micros(count.saturating_mul(1_000_000) / per_second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_cpu_time() {
        let pid = std::process::id();
        let before = cpu_of(pid).unwrap();
        while cpu_of(pid).unwrap() < before + Duration::from_millis(20) {
            std::hint::black_box((0..10_000_u64).sum::<u64>());
        }
        assert!(Machine::now().unwrap().busy >= before);
        assert!(load_average().unwrap() >= 0.0);
    }
}
