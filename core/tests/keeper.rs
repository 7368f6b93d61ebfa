//! The keeper's walk, transition by transition, and each rule of its header.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking, and its numbers are small"
)]

#[path = "keeper/bench.rs"]
mod bench;
#[path = "keeper/known.rs"]
mod known;
#[path = "keeper/missed.rs"]
mod missed;

use magent_core::keeper::{Failure, Identity, KeeperConfig, Left, Report, StillDown};
use magent_core::placement::{Phase, Plan, Version, plan};

use Phase::{CatchingUp, Cleaning, Down, Flipping, Purging, Up};
use bench::{Bench, FIRST, HEALER, PAIR, SECOND, STAR, id};

/// Who does what for a key of these two.
fn plan_of(bench: &Bench, primary: u16, backup: u16) -> Plan {
    let standing = |backend: u16| {
        let view = &bench.view.backends[usize::from(backend)];
        (id(backend), view.standing())
    };
    plan(standing(primary), Some(standing(backup)))
}

// -- The walk --

#[test]
fn a_small_absence() {
    let mut bench = Bench::new(PAIR);
    bench.muted.insert(HEALER);
    bench.kill(0);
    assert_eq!(bench.walked(0), [Down]);
    bench.revive(0);
    assert_eq!(bench.walked(0), [], "the healer takes part in every epoch");
    bench.unmute(HEALER);
    bench.pass_ms(200);
    assert_eq!(bench.walked(0), [Purging, CatchingUp, Flipping, Up]);
    assert!(!bench.missed(0));
    assert_eq!(bench.incarnation(0), 1);
}

#[test]
fn each_step_waits_for_all() {
    let mut bench = Bench::new(PAIR);
    bench.kill(0);
    for who in [SECOND, HEALER] {
        bench.muted.insert(who);
    }
    bench.revive(0);
    bench.pass_ms(200);
    // It was given up in an epoch that all have acknowledged, so it may be purged.
    assert_eq!(bench.phase(0), Purging);
    bench.unmute(SECOND);
    assert_eq!(bench.phase(0), Purging, "the healer's copies may be there");
    bench.follow(HEALER);
    bench.run();
    assert_eq!(bench.phase(0), Flipping, "nothing is lacking");
    bench.muted.insert(FIRST);
    bench.follow(HEALER);
    bench.run();
    assert_eq!(bench.phase(0), Up, "the first worker was not muted then");
    bench.unmute(FIRST);
    bench.unmute(HEALER);
    assert_eq!(bench.settled, bench.view.epoch);
}

#[test]
fn without_partners_there_is_nothing_to_copy_and_no_healer() {
    let mut bench = Bench::new(&[&[]]);
    bench.kill(0);
    bench.revive(0);
    assert_eq!(bench.walked(0), [Down, Purging, Up]);
    assert!(!bench.missed(0), "nobody was told of what it missed");
}

/// Another proxy probes as rarely as this one, and goes on without the backend until it finds it.
#[test]
fn who_returned_is_not_read_before_other_proxies_can_know() {
    // How long it was away, and for how long it is held at most and then.
    for (away_ms, hold_ms_max, held_ms) in [(300, 0, 0), (300, 5_000, 800), (3_000, 500, 500)] {
        let configure = |config: &mut KeeperConfig| {
            config.hold_ms_max = hold_ms_max;
            config.probe_delay_ms_max = 100;
        };
        let mut bench = Bench::with(PAIR, configure, |_, _| {});
        bench.kill(0);
        bench.pass_ms(away_ms - 100);
        bench.peers[0].alive = true;
        bench.pass_ms(100);
        let returned_at = bench.now;
        assert_ne!(bench.phase(0), Down, "{away_ms}");
        if held_ms > 0 {
            assert_eq!(bench.phase(0), CatchingUp, "{away_ms}");
            assert_eq!(plan_of(&bench, 0, 1).authority, Some(id(1)));
            bench.pass_ms(held_ms - 110);
            assert_eq!(bench.phase(0), CatchingUp, "{away_ms}");
        }
        bench.pass_ms(110);
        assert_eq!(bench.phase(0), Up, "{away_ms}");
        let probes = bench.probes.iter().filter(|&&(at, _)| at > returned_at);
        assert!(probes.count() <= 2, "it waits without asking");
        // It leads at once where nobody else is left.
        bench.kill(0);
        bench.pass_ms(away_ms);
        bench.peers[0].alive = true;
        bench.pass_ms(100);
        bench.kill(1);
        assert_eq!(plan_of(&bench, 0, 1).authority, Some(id(0)));
    }
}

#[test]
fn what_fails_on_its_way_begins_again() {
    for how_far in [Purging, CatchingUp, Flipping, Cleaning] {
        let mut bench = Bench::new(PAIR);
        bench.kill(0);
        bench.muted.insert(HEALER);
        bench.peers[0].alive = true;
        bench.restart(0, 0);
        bench.follow(HEALER);
        bench.pass_ms(200);
        if how_far != Purging {
            bench.follow(HEALER);
            bench.run();
        }
        if how_far == Flipping {
            bench.copied(0, 1);
        }
        if how_far == Cleaning {
            bench.kill(1);
        }
        assert_eq!(bench.phase(0), how_far);
        let incarnation = bench.incarnation(0);
        bench.fail(0);
        assert_eq!(bench.phase(0), Down);
        assert_eq!(bench.incarnation(0), incarnation + 1);
    }
}

// -- Settling --

#[test]
fn a_probe_counts_only_if_it_began_when_all_knew() {
    let mut bench = Bench::new(PAIR);
    bench.muted.insert(SECOND);
    bench.fail(0);
    bench.pass_ms(1_000);
    assert_eq!(
        bench.phase(0),
        Down,
        "the second worker may still write to it"
    );
    bench.hold_probes = true;
    bench.fail(1);
    bench.pass_ms(150);
    assert_eq!(
        bench.held,
        [id(1)],
        "0 has answered and waits for the epoch"
    );
    bench.unmute(SECOND);
    assert_eq!(bench.held, [id(1), id(0)]);
    bench.answer(1);
    assert_eq!(bench.phase(1), Down, "asked for before all knew");
    bench.answer(0);
    assert_eq!(bench.phase(0), Purging);
}

#[test]
fn nothing_that_was_sent_before_may_be_under_way() {
    for (lingering, expected) in [(Some(false), Up), (Some(true), Down), (None, Down)] {
        let mut bench = Bench::new(PAIR);
        bench.kill(0);
        bench.peers[0].answer.lingering = lingering;
        bench.revive(0);
        assert_eq!(bench.phase(0), expected, "{lingering:?}");
        // The last resort: it has answered for settle_ms.
        bench.pass_ms(2_500);
        assert_eq!(bench.phase(0), expected, "{lingering:?}");
        bench.peers[0].alive = false;
        bench.pass_ms(1_100);
        bench.peers[0].alive = true;
        if expected == Up {
            continue;
        }
        bench.pass_ms(4_900);
        assert_eq!(bench.phase(0), Down, "one was not answered in between");
        bench.pass_ms(1_300);
        assert_eq!(bench.phase(0), Up, "{lingering:?}");
    }
}

/// Found on a loaded machine behind a relay: each probe that was late began the five seconds anew.
#[test]
fn a_probe_that_is_late_disproves_nothing() {
    for (failure, expected) in [
        (Failure::Silent, Up),
        (Failure::ConnectTimeout, Up),
        (Failure::Refused, Down),
        (Failure::Reset, Down),
    ] {
        let mut bench = Bench::new(PAIR);
        bench.kill(0);
        bench.peers[0].answer.lingering = None;
        bench.peers[0].failure = failure;
        bench.revive(0);
        for _ in 0..3 {
            bench.pass_ms(1_200);
            assert_eq!(bench.phase(0), Down);
            bench.peers[0].alive = false;
            let asked = bench.probes.len();
            while bench.probes.len() == asked {
                bench.pass_ms(10);
            }
            bench.peers[0].alive = true;
        }
        bench.pass_ms(2_500);
        assert_eq!(bench.phase(0), expected, "{failure:?}");
    }
}

#[test]
fn time_without_answers_proves_nothing() {
    let mut bench = Bench::new(PAIR);
    bench.kill(0);
    bench.peers[0].answer.lingering = None;
    bench.peers[0].failure = Failure::Silent;
    bench.revive(0);
    bench.pass_ms(2_000);
    bench.peers[0].alive = false;
    bench.pass_ms(60_000);
    bench.peers[0].alive = true;
    bench.pass_ms(1_700);
    assert_eq!(bench.phase(0), Down, "a minute of silence does not count");
    bench.pass_ms(3_000);
    assert_eq!(bench.phase(0), Up);
}

#[test]
fn answers_prove_nothing_before_every_worker_has_stopped_writing() {
    let mut bench = Bench::new(PAIR);
    bench.peers[0].answer.lingering = None;
    bench.muted.insert(SECOND);
    bench.hold_probes = true;
    bench.fail(0);
    bench.pass_ms(200);
    bench.hold_probes = false;
    bench.answer(0);
    assert_eq!(
        bench.still_down.last(),
        Some(&(id(0), StillDown::Unsettled))
    );
    bench.pass_ms(6_000);
    bench.unmute(SECOND);
    let lingering = |answered_ms| StillDown::Lingering {
        answered_ms,
        settle_ms: 5_000,
    };
    assert_eq!(bench.still_down.last(), Some(&(id(0), lingering(0))));
    bench.pass_ms(4_900);
    assert_eq!(bench.phase(0), Down);
    bench.pass_ms(200);
    assert_eq!(bench.phase(0), Up);
}

#[test]
fn of_another_process_nothing_is_under_way() {
    let mut bench = Bench::new(PAIR);
    bench.kill(0);
    bench.peers[0].answer.lingering = None;
    bench.revive_empty(0);
    assert_eq!(bench.phase(0), CatchingUp);
}

// -- Identity --

#[test]
fn who_is_another() {
    let known = Identity {
        pid: 1,
        started_unix_s: 1_000,
        uptime_s: 3,
        connections: 5,
        sets: 5,
        items_stored: 5,
    };
    let same = [
        Identity {
            connections: 6,
            sets: 7,
            items_stored: 8,
            ..known
        },
        Identity {
            connections: 6,
            started_unix_s: 1_001,
            ..known
        },
        Identity {
            connections: 6,
            started_unix_s: 999,
            ..known
        },
    ];
    for same in same {
        assert!(!known.is_replaced_by(&same), "{same:?}");
    }
    let old = Identity {
        uptime_s: 4,
        ..known
    };
    let reset = Identity {
        connections: 1,
        sets: 0,
        items_stored: 0,
        ..known
    };
    assert!(!old.is_replaced_by(&reset), "stats reset");
    let others = [
        // Nobody who was asked once more has no connection more.
        known,
        Identity { pid: 2, ..known },
        Identity {
            started_unix_s: 1_002,
            ..known
        },
        Identity {
            started_unix_s: 998,
            ..known
        },
        Identity {
            connections: 4,
            ..known
        },
        Identity { sets: 4, ..known },
        Identity {
            items_stored: 4,
            ..known
        },
    ];
    for other in others {
        assert!(known.is_replaced_by(&other), "{other:?}");
    }
}

#[test]
fn a_connection_is_used_when_a_probe_that_began_later_knows_who_answers() {
    let mut bench = Bench::new(PAIR);
    bench.hold_probes = true;
    let first = bench.connect(FIRST, 0, 1);
    assert_eq!(bench.held, [id(0)]);
    let second = bench.connect(SECOND, 0, 1);
    assert_eq!(bench.held, [id(0)], "one probe at a time");
    bench.answer(0);
    assert_eq!(bench.verified, [(FIRST, first)]);
    bench.answer(0);
    assert_eq!(bench.verified, [(FIRST, first), (SECOND, second)]);
    assert_eq!(bench.held, []);
}

#[test]
fn a_restart_is_noticed_by_the_next_connection() {
    // Items and flushes of the new process, whether a partner leads, and whether it is flushed.
    for (items, flushes, leads, flush) in [
        (3, 0, true, true),
        // Flushed by somebody, who knows when.
        (3, 1, true, true),
        (0, 0, true, false),
        (3, 0, false, false),
    ] {
        let mut bench = Bench::new(PAIR);
        if !leads {
            bench.kill(1);
        }
        bench.restart(0, items);
        bench.peers[0].answer.flushes = flushes;
        bench.muted.insert(HEALER);
        bench.connect(FIRST, 0, 1);
        assert_eq!(bench.verified, [], "it may be empty");
        assert_eq!(bench.phase(0), Down);
        let change = bench.changes.last().copied().unwrap();
        assert_eq!(change.failure, Some(Failure::Restarted));
        bench.follow(HEALER);
        bench.pass_ms(200);
        let view = &bench.view.backends[0];
        assert_eq!(
            (view.phase, view.flush),
            (Purging, flush),
            "{items} {flushes} {leads}"
        );
        bench.unmute(HEALER);
        let sources: &[u16] = if leads { &[1] } else { &[] };
        assert_eq!(bench.sources(0), sources, "it lacks all");
        if leads {
            assert_eq!(bench.phase(0), CatchingUp);
            bench.copied(0, 1);
        }
        assert_eq!(bench.phase(0), Up);
    }
}

#[test]
fn whoever_was_never_known_lacks_all() {
    // Its first probe is not answered.
    let mut fresh = Bench::with(
        PAIR,
        |_| {},
        |keeper, now| {
            for backend in [0, 1] {
                assert_eq!(
                    keeper.poll(now),
                    magent_core::keeper::Output::Probe(id(backend))
                );
                let result = if backend == 0 {
                    Err(Failure::Refused)
                } else {
                    Ok(Bench::new(PAIR).peers[1].answer)
                };
                keeper.on_probe(now, id(backend), result);
            }
        },
    );
    fresh.pass_ms(300);
    assert_eq!(fresh.phase(0), CatchingUp);
    assert_eq!(fresh.sources(0), [1]);
    assert!(!fresh.view.backends[0].flush, "it may have been in step");
}

#[test]
fn a_suspect_that_answers_is_not_given_up() {
    for alive in [true, false] {
        let mut bench = Bench::new(PAIR);
        bench.peers[0].alive = alive;
        let report = Report::Suspect {
            backend: id(0),
            incarnation: 0,
        };
        let probes = bench.probes.len();
        bench.say(FIRST, report);
        assert_eq!(bench.probes.len(), probes + 1);
        assert_eq!(bench.phase(0), if alive { Up } else { Down });
    }
}

// -- Catching up --

#[test]
fn a_share_that_was_copied_is_not_asked_for_again() {
    let mut bench = Bench::new(STAR);
    bench.kill(2);
    bench.revive_empty(2);
    assert_eq!(bench.sources(2), [0, 1]);
    bench.copied(2, 0);
    assert_eq!(bench.sources(2), [1], "the View says so too");
    assert_eq!(bench.phase(2), CatchingUp);
    bench.copied(2, 1);
    assert_eq!(bench.phase(2), Up);
}

#[test]
fn single_keys_are_waited_for() {
    let mut bench = Bench::new(PAIR);
    bench.kill(0);
    bench.busy(0, true);
    bench.revive(0);
    assert_eq!(bench.phase(0), CatchingUp);
    assert_eq!(bench.sources(0), [], "a small absence lacks nobody's share");
    bench.busy(0, false);
    assert_eq!(bench.phase(0), Up);
}

#[test]
fn a_flip_with_more_to_copy_begins_again() {
    let mut bench = Bench::new(PAIR);
    bench.kill(0);
    bench.muted.insert(SECOND);
    bench.follow(SECOND);
    bench.peers[0].alive = true;
    bench.pass_ms(200);
    bench.follow(SECOND);
    bench.run();
    assert_eq!(bench.phase(0), Flipping);
    bench.busy(0, true);
    assert_eq!(bench.phase(0), CatchingUp);
    bench.unmute(SECOND);
    assert_eq!(bench.phase(0), CatchingUp, "what all know is out of date");
    bench.busy(0, false);
    assert_eq!(
        bench.walked(0),
        [
            Down, Purging, CatchingUp, Flipping, CatchingUp, Flipping, Up
        ]
    );
}

#[test]
fn a_few_keys_are_copied_while_conditional_commands_wait() {
    let mut bench = Bench::new(PAIR);
    bench.kill(0);
    // Each `incr` puts its key back, so that none may never be left before they wait.
    bench.left(0, Left::Few);
    bench.revive(0);
    assert_eq!(bench.phase(0), Flipping);
    bench.left(0, Left::Many);
    assert_eq!(bench.phase(0), CatchingUp, "they would wait for too long");
    bench.left(0, Left::Few);
    assert_eq!(bench.phase(0), Flipping);
    bench.left(0, Left::None);
    assert_eq!(bench.phase(0), Up);
}

#[test]
fn keys_that_cannot_be_named_are_a_share() {
    for (source, sources) in [(None, [0, 1].as_slice()), (Some(1), &[1])] {
        let mut bench = Bench::new(STAR);
        bench.kill(2);
        bench.busy(2, true);
        bench.revive(2);
        bench.lacks(2, source);
        assert_eq!(bench.sources(2), sources);
        bench.busy(2, false);
        assert_eq!(bench.phase(2), CatchingUp);
    }
}

#[test]
fn a_flush_by_another_means_all_again() {
    let mut bench = Bench::new(PAIR);
    bench.kill(0);
    bench.revive_empty(0);
    bench.peers[0].answer.flushes += 1;
    bench.copied(0, 1);
    assert_eq!(bench.phase(0), CatchingUp);
    assert_eq!(bench.sources(0), [1]);
    bench.copied(0, 1);
    assert_eq!(bench.phase(0), Up);
}

#[test]
fn a_flush_by_another_while_nobody_can_be_copied_from() {
    let mut bench = Bench::new(PAIR);
    bench.kill(1);
    bench.kill(0);
    bench.busy(0, true);
    bench.revive(0);
    bench.peers[0].answer.flushes += 1;
    bench.busy(0, false);
    assert_eq!(bench.phase(0), Up, "it leads with what it has");
}

#[test]
fn a_flush_by_another_while_it_is_down() {
    let mut bench = Bench::new(PAIR);
    bench.kill(0);
    bench.peers[0].answer.flushes += 1;
    bench.revive(0);
    assert_eq!(bench.sources(0), [1], "the same process, and empty");
    bench.copied(0, 1);
    assert_eq!(bench.phase(0), Up);
}

#[test]
fn a_flush_by_another_during_the_purge() {
    let mut bench = Bench::new(PAIR);
    bench.kill(0);
    bench.muted.insert(HEALER);
    bench.follow(HEALER);
    bench.peers[0].alive = true;
    bench.pass_ms(200);
    assert_eq!(bench.phase(0), Purging);
    bench.peers[0].answer.flushes += 1;
    bench.unmute(HEALER);
    assert_eq!(bench.sources(0), [1]);
}

#[test]
fn a_source_that_cannot_be_walked_is_filled_from_by_reads() {
    let mut bench = Bench::new(PAIR);
    bench.kill(0);
    bench.revive_empty(0);
    let (target, source) = (id(0), id(1));
    bench.say(HEALER, Report::Unwalkable { target, source });
    assert!(bench.view.backends[0].fill);
    bench.copied(0, 1);
    assert!(!bench.view.backends[0].fill);
}

#[test]
fn nobody_leads_with_copies_that_were_not_looked_at_again() {
    let mut bench = Bench::new(PAIR);
    bench.kill(0);
    bench.revive_empty(0);
    bench.muted.insert(HEALER);
    bench.kill(1);
    assert_eq!(bench.phase(0), Cleaning);
    assert!(plan_of(&bench, 0, 1).soon, "requests wait");
    bench.unmute(HEALER);
    // Nobody else is left to copy from.
    assert_eq!(bench.phase(0), Up);
    assert_eq!(bench.walked(0)[3..], [Cleaning, CatchingUp, Flipping, Up]);
    assert_eq!(plan_of(&bench, 0, 1).authority, Some(id(0)));
    assert_eq!(plan_of(&bench, 0, 1).absent, Some(id(1)));
}

// -- Who is listened to --

#[test]
fn reports_about_an_earlier_incarnation_change_nothing() {
    let mut bench = Bench::new(PAIR);
    bench.kill(0);
    bench.revive_empty(0);
    assert_eq!(bench.phase(0), CatchingUp);
    let epoch = bench.view.epoch;
    let (backend, incarnation) = (id(0), 0);
    let stale = [
        Report::Failed {
            backend,
            incarnation,
            failure: Failure::Silent,
        },
        Report::Suspect {
            backend,
            incarnation,
        },
        Report::Purged {
            backend,
            incarnation,
        },
        Report::Copied {
            target: backend,
            incarnation,
            source: id(1),
        },
        Report::Connected {
            connection: magent_core::engine::ConnectionId {
                backend,
                generation: 3,
            },
            incarnation,
        },
    ];
    let probes = bench.probes.len();
    for report in stale {
        bench.say(HEALER, report);
    }
    assert_eq!(bench.view.epoch, epoch);
    assert_eq!(bench.probes.len(), probes);
    assert_eq!(bench.verified, []);
}

#[test]
fn a_failed_probe_of_an_earlier_incarnation_changes_nothing() {
    let mut bench = Bench::new(PAIR);
    bench.hold_probes = true;
    bench.connect(FIRST, 0, 1);
    bench.fail(0);
    bench.peers[0].alive = false;
    bench.answer(0);
    assert_eq!(bench.walked(0), [Down]);
    assert_eq!(bench.incarnation(0), 1);
}

#[test]
fn a_worker_that_has_ended_is_not_waited_for() {
    let mut bench = Bench::new(PAIR);
    bench.muted.insert(SECOND);
    bench.kill(0);
    assert!(
        bench.settled < bench.view.epoch,
        "the second worker may still read it"
    );
    bench.keeper.on_worker_ended(bench.now, SECOND);
    bench.run();
    assert_eq!(bench.settled, bench.view.epoch);
    bench.revive(0);
    assert_eq!(bench.phase(0), Up, "nor with a purge that began later");
}

#[test]
fn probes_grow_rarer_and_never_stop() {
    let mut bench = Bench::new(PAIR);
    bench.kill(0);
    bench.probes.clear();
    bench.pass_ms(20_000);
    let times: Vec<u64> = bench
        .probes
        .iter()
        .map(|(at, _)| at.0 / 1_000_000)
        .collect();
    let gaps: Vec<u64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(
        gaps.iter().all(|gap| (100..=1_010).contains(gap)),
        "{gaps:?}"
    );
    assert!(gaps[5..].iter().all(|gap| *gap >= 750), "{gaps:?}");
    assert!(
        gaps[5..].iter().any(|gap| *gap != gaps[5]),
        "they are spread"
    );
}

#[test]
fn a_version_that_changes_is_published() {
    let mut bench = Bench::new(PAIR);
    let version = Some(Version {
        major: 1,
        minor: 6,
        patch: 18,
    });
    bench.peers[0].answer.version = version;
    bench.connect(FIRST, 0, 1);
    assert_eq!(bench.view.backends[0].version, version);
    let epoch = bench.view.epoch;
    bench.connect(FIRST, 0, 2);
    assert_eq!(bench.view.epoch, epoch);
}
