//! `sim SEED`, `sim --seeds N`: replays one seed, or looks for one that fails.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use magent_core::breaks::{Break, Breaks};
use sim::{Options, Tally, World};

const HELP: &str = "\
usage: sim [--lite] [--requests] SEED          replay one seed and print its trace
       sim [--lite] --seeds N [--from SEED]    run N seeds, stop at the first that fails
           --keep-going                        run them all, list all that fail
           --break NAME                        switch a protection of the core off
       sim --break list                        name them
";

/// The seed under way, for the report of a panic.
static SEED: AtomicU64 = AtomicU64::new(0);

#[derive(Debug, Clone, Default)]
struct Args {
    seed: Option<u64>,
    seeds: Option<u64>,
    from: u64,
    lite: bool,
    requests: bool,
    keep_going: bool,
    breaks: Breaks,
    broken: String,
    list: bool,
}

impl Args {
    fn options(&self, seed: u64) -> Options {
        Options {
            breaks: self.breaks,
            ..Options::draw(seed, self.lite)
        }
    }

    /// How to see a seed again.
    fn replay(&self, seed: u64) -> String {
        let lite = if self.lite { " --lite" } else { "" };
        format!("replay: sim{lite}{} {seed}", self.broken)
    }
}

fn main() -> ExitCode {
    let args = match parse(std::env::args().skip(1)) {
        Ok(args) => args,
        Err(what) => {
            eprint!("sim: {what}\n{HELP}");
            return ExitCode::from(2);
        }
    };
    if args.list {
        for known in Break::ALL {
            println!("{:<22} {}", known.name(), known.help());
        }
        return ExitCode::SUCCESS;
    }
    match (args.seed, args.seeds) {
        (Some(seed), None) => replay(seed, &args),
        (None, Some(count)) => search(count, &args),
        _ => {
            print!("{HELP}");
            ExitCode::from(2)
        }
    }
}

fn parse(args: impl Iterator<Item = String>) -> Result<Args, String> {
    let mut parsed = Args::default();
    let mut args = args.peekable();
    while let Some(arg) = args.next() {
        let mut number = |name: &str| -> Result<u64, String> {
            let value = args
                .next()
                .ok_or_else(|| format!("{name} needs a number"))?;
            value
                .parse()
                .map_err(|_| format!("{name} {value}: not a number"))
        };
        match arg.as_str() {
            "--lite" => parsed.lite = true,
            "--break" => {
                let name = args.next().unwrap_or_default();
                parsed.broken = format!(" --break {name}");
                parsed.list = name == "list";
                if !parsed.list {
                    let known = Break::ALL.iter().find(|known| known.name() == name);
                    let known = known.ok_or_else(|| format!("unknown protection {name}"))?;
                    parsed.breaks = Breaks::only(*known);
                }
            }
            "--keep-going" => parsed.keep_going = true,
            "--requests" => parsed.requests = true,
            "--seeds" => parsed.seeds = Some(number("--seeds")?),
            "--from" => parsed.from = number("--from")?,
            _ => {
                let seed = arg.parse().map_err(|_| format!("unknown argument {arg}"))?;
                parsed.seed = Some(seed);
            }
        }
    }
    Ok(parsed)
}

/// A panic of the core is a finding like any other: it names its seed and how to see it again.
fn report_panics(args: &Args) {
    let args = args.clone();
    std::panic::set_hook(Box::new(move |info| {
        let seed = SEED.load(Ordering::Relaxed);
        eprintln!("seed {seed}: {info}");
        eprintln!("{}", args.replay(seed));
        std::process::exit(1);
    }));
}

fn replay(seed: u64, args: &Args) -> ExitCode {
    let options = args.options(seed);
    println!("{options}");
    SEED.store(seed, Ordering::Relaxed);
    report_panics(args);
    let mut world = World::new(options);
    world.print_trace(args.requests);
    match world.run() {
        None => {
            println!("seed {seed}: no violation; {:?}", world.tally());
            ExitCode::SUCCESS
        }
        Some(found) => {
            println!("seed {seed}: {found}");
            ExitCode::FAILURE
        }
    }
}

fn search(count: u64, args: &Args) -> ExitCode {
    println!("seeds {} to {}", args.from, args.from + count - 1);
    report_panics(args);
    let started = Instant::now();
    let mut sum = Tally::default();
    let mut failed = 0_u64;
    for seed in args.from..args.from + count {
        SEED.store(seed, Ordering::Relaxed);
        let mut world = World::new(args.options(seed));
        if let Some(found) = world.run() {
            println!("seed {seed}: {found}");
            failed += 1;
            if args.keep_going {
                continue;
            }
            println!("{}", args.options(seed));
            println!("{}", args.replay(seed));
            return ExitCode::FAILURE;
        }
        sum += world.tally();
    }
    let seconds = started.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a rate for people to read")]
    let rate = count as f64 / seconds.max(0.001);
    println!("{failed} violations; {rate:.0} seeds/s; {sum:?}");
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
