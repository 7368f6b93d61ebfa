//! What the simulator itself must be able to do: replay, and fail.

use std::panic::{AssertUnwindSafe, catch_unwind};

use magent_core::breaks::{Break, Breaks};
use sim::{Options, World};

/// Runs a seed; yields its trace and what it found. A panic of the core is a finding.
fn run(seed: u64, breaks: Breaks) -> (Vec<String>, Option<String>) {
    let options = Options {
        breaks,
        ..Options::draw(seed, false)
    };
    let mut world = World::new(options);
    let found = catch_unwind(AssertUnwindSafe(|| world.run()));
    let found = match found {
        Ok(found) => found.map(|found| found.to_string()),
        Err(_) => Some("panic".to_owned()),
    };
    (world.trace().to_vec(), found)
}

#[test]
fn the_same_seed_twice_gives_the_same_trace() {
    for seed in 0..40 {
        let (first, second) = (run(seed, Breaks::default()), run(seed, Breaks::default()));
        assert!(first == second, "seed {seed} is not deterministic");
    }
}

#[test]
fn no_seed_finds_anything() {
    for seed in 0..200 {
        let (_, found) = run(seed, Breaks::default());
        assert_eq!(found, None, "replay: cargo run --release -p sim -- {seed}");
    }
}

#[test]
fn traces_have_their_columns() {
    let (lines, _) = run(1, Breaks::default());
    assert!(!lines.is_empty());
    for line in lines {
        let mut words = line.split_whitespace();
        let time = words.next().and_then(|word| word.parse::<u64>().ok());
        assert!(time.is_some() && words.count() >= 2, "{line}");
    }
}

#[test]
fn every_protection_is_found_missing_within_2000_seeds() {
    std::thread::scope(|scope| {
        let threads: Vec<_> = Break::ALL
            .iter()
            .map(|&one| {
                scope.spawn(move || {
                    let seed = (0..2_000).find(|&seed| run(seed, Breaks::only(one)).1.is_some());
                    (one, seed)
                })
            })
            .collect();
        for thread in threads {
            let (one, seed) = thread.join().expect("run() catches panics");
            assert!(
                seed.is_some(),
                "{}: nothing notices its absence",
                one.name()
            );
            println!("{}: seed {}", one.name(), seed.unwrap_or_default());
        }
    });
}
