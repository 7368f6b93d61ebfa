//! One run: a workload against a target for a bounded time, with what it cost on all sides.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use crate::generator::Generator;
use crate::meter::{cpu_time, peak_memory_kib};
use crate::workload::Workload;

/// Where a run goes and whose cost it measures.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// What the clients connect to.
    pub(crate) addresses: Vec<SocketAddr>,
    /// The process that is measured, if there is one.
    pub(crate) proxy_pid: Option<u32>,
    pub(crate) backend_pids: Vec<u32>,
}

/// How long a run takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    pub(crate) warm_up: Duration,
    pub(crate) measured: Duration,
}

/// The figures of one run. CPU times are microseconds per request; a multiget is one request.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Run {
    pub(crate) workload: String,
    pub(crate) peer: String,
    /// Counts from 1; runs of one round make a pair.
    pub(crate) round: u32,
    /// Requests answered in the measured time.
    pub(crate) requests: u64,
    pub(crate) seconds: f64,
    pub(crate) throughput: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) proxy_cpu_us: Option<f64>,
    pub(crate) backend_cpu_us: Option<f64>,
    pub(crate) generator_cpu_us: f64,
    pub(crate) peak_memory_kib: Option<u64>,
    pub(crate) hits: u64,
    pub(crate) misses: u64,
    pub(crate) stored: u64,
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
}

impl Run {
    /// Why this run does not count, if it does not: every key is stored beforehand and nothing
    /// is broken, so each request has an answer.
    pub(crate) fn fault(&self) -> Option<String> {
        let Self {
            misses,
            errors,
            requests,
            ..
        } = self;
        if let Some(line) = &self.first_error {
            return Some(format!(
                "{errors} of {requests} requests failed, the first: {line}"
            ));
        }
        if *misses > 0 {
            return Some(format!("{misses} keys that were stored are missing"));
        }
        (*requests == 0).then(|| {
            "no request was answered in the measured time: a stall, or a machine too busy"
                .to_owned()
        })
    }
}

/// Carries out one run. A wrong answer, a lost connection and silence are errors.
pub(crate) fn measure(workload: &Workload, target: &Target, timing: Timing) -> Result<Run> {
    let mut generator = Generator::connect(workload, &target.addresses)?;
    let warm_up = generator.run(timing.warm_up)?;
    let before = Costs::now(target)?;
    let mut tally = generator.run(timing.measured)?;
    let after = Costs::now(target)?;
    let rest = generator.finish()?;
    // What went wrong outside the measured time is wrong too.
    for other in [warm_up, rest] {
        tally.misses += other.misses;
        tally.errors += other.errors;
        tally.first_error = tally.first_error.or(other.first_error);
    }
    let per_request = |spent: Duration| spent.as_secs_f64() * 1e6 / tally.requests.max(1) as f64;
    Ok(Run {
        workload: workload.name.to_owned(),
        peer: String::new(),
        round: 1,
        requests: tally.requests,
        seconds: tally.elapsed.as_secs_f64(),
        throughput: tally.throughput(),
        p50_us: tally.latency_us(50.0),
        p99_us: tally.latency_us(99.0),
        p999_us: tally.latency_us(99.9),
        proxy_cpu_us: target
            .proxy_pid
            .map(|_| per_request(after.proxy - before.proxy)),
        backend_cpu_us: (!target.backend_pids.is_empty())
            .then(|| per_request(after.backends - before.backends)),
        generator_cpu_us: per_request(after.generator - before.generator),
        peak_memory_kib: target.proxy_pid.map(peak_memory_kib).transpose()?,
        hits: tally.hits,
        misses: tally.misses,
        stored: tally.stored,
        errors: tally.errors,
        first_error: tally.first_error,
    })
}

/// CPU time spent so far.
struct Costs {
    proxy: Duration,
    backends: Duration,
    generator: Duration,
}

impl Costs {
    fn now(target: &Target) -> Result<Self> {
        let sum = |pids: &[u32]| {
            pids.iter()
                .map(|&pid| cpu_time(pid))
                .sum::<Result<Duration>>()
        };
        Ok(Self {
            proxy: sum(target.proxy_pid.as_slice())?,
            backends: sum(&target.backend_pids)?,
            generator: cpu_time(std::process::id())?,
        })
    }
}
