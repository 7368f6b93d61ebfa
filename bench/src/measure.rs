//! One run: a workload against a target for a bounded time, with what it cost on all sides.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;

use crate::generator::{Generator, Tally};
use crate::meter::{cpu_time, memory_kib, peak_memory_kib};
use crate::workload::{Pace, Workload};

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
    /// Memory of the proxy for each connection that has asked nothing yet, and for each after a
    /// request, where connections are held idle.
    pub(crate) new_connection_kib: Option<f64>,
    pub(crate) used_connection_kib: Option<f64>,
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
    if workload.pace == Pace::Never {
        return hold(workload, target);
    }
    let mut generator = Generator::connect(workload, &target.addresses)?;
    let warm_up = warm_up(workload, &mut generator, timing.warm_up)?;
    let before = Costs::now(target)?;
    let mut tally = generator.run(timing.measured)?;
    let after = Costs::now(target)?;
    let rest = generator.finish()?;
    // What went wrong outside the measured time is wrong too.
    tally.blame(warm_up);
    tally.blame(rest);
    figures(workload, target, tally, [&before, &after])
}

/// Runs for `duration`, or longer if some of thousands of clients have had no answer by then: until
/// all have, they are not in step.
fn warm_up(workload: &Workload, generator: &mut Generator, duration: Duration) -> Result<Tally> {
    let start = Instant::now();
    let mut tally = generator.run(duration)?;
    let clients = u64::from(workload.connections);
    while !duration.is_zero()
        && workload.pace == Pace::Closed
        && tally.requests < clients
        && start.elapsed() < WARM_UP_MAX
    {
        let more = generator.run(WARM_UP_STEP)?;
        tally.requests += more.requests;
        tally.blame(more);
    }
    Ok(tally)
}

/// Opens all connections, has each ask once, all at the same time, and looks at the memory of the
/// proxy while they do nothing.
fn hold(workload: &Workload, target: &Target) -> Result<Run> {
    let memory = || target.proxy_pid.map(memory_kib).transpose();
    let (empty, before) = (memory()?, Costs::now(target)?);
    let mut generator = Generator::connect(workload, &target.addresses)?;
    let count = usize::try_from(workload.connections)?;
    // They are accepted in order, so once the last is answered all are.
    let first = generator.ask_once(count - 1..count)?;
    let accepted = memory()?;
    let mut tally = generator.ask_once(0..count)?;
    tally.blame(first);
    let (used, after) = (memory()?, Costs::now(target)?);
    let each = |now: Option<u64>| {
        let grown = now?.saturating_sub(empty?);
        Some(grown as f64 / f64::from(workload.connections))
    };
    let (new_connection_kib, used_connection_kib) = (each(accepted), each(used));
    Ok(Run {
        new_connection_kib,
        used_connection_kib,
        ..figures(workload, target, tally, [&before, &after])?
    })
}

/// What `tally` and the costs before and after come to.
fn figures(
    workload: &Workload,
    target: &Target,
    tally: Tally,
    [before, after]: [&Costs; 2],
) -> Result<Run> {
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
        new_connection_kib: None,
        used_connection_kib: None,
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

/// Longest warm-up. A target that takes longer for an answer to each client is measured as it is.
const WARM_UP_MAX: Duration = Duration::from_secs(5);

/// How often it is looked at whether a warm-up that lasts longer may end.
const WARM_UP_STEP: Duration = Duration::from_millis(20);

#[cfg(test)]
impl Run {
    /// A sound run of `peer` with the workload `get`.
    pub(crate) fn example(peer: &str, round: u32, proxy_cpu_us: Option<f64>) -> Self {
        Self {
            workload: "get".into(),
            peer: peer.into(),
            round,
            requests: 1_000,
            seconds: 0.1,
            throughput: 10_000.0,
            p50_us: 50.0,
            p99_us: 99.0,
            p999_us: 999.0,
            proxy_cpu_us,
            backend_cpu_us: Some(5.0),
            generator_cpu_us: 3.0,
            peak_memory_kib: proxy_cpu_us.map(|_| 2_048),
            new_connection_kib: None,
            used_connection_kib: None,
            hits: 1_000,
            misses: 0,
            stored: 0,
            errors: 0,
            first_error: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;

    #[test]
    fn warm_up_lasts_until_each_client_had_an_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                std::thread::spawn(move || {
                    let lines = BufReader::new(stream.try_clone().unwrap()).lines();
                    let asked = lines.map_while(Result::ok);
                    asked.for_each(|_| stream.write_all(b"END\r\n").unwrap_or_default());
                });
            }
        });
        let workload = Workload {
            connections: 50,
            ..Workload::find("get").unwrap().clone()
        };
        let mut generator = Generator::connect(&workload, &[target]).unwrap();
        let moment = Duration::from_nanos(1);
        let tally = warm_up(&workload, &mut generator, moment).unwrap();
        assert!(tally.requests >= 50, "{}", tally.requests);
    }
}
