//! A new process at a backend's address that holds items: whether another proxy of the pool vouches for them.

use magent_core::keeper::Report;
use magent_core::known::Process;
use magent_core::placement::Phase::{CatchingUp, Down, Purging};
use magent_core::placement::Version;

use crate::bench::{Bench, HEALER, PAIR, SECOND, id};

/// What the mark names, of who answers there.
type Mark = fn(Process) -> Process;

/// The primary was restarted, holds so many items, and may hold a mark. It is being purged.
fn purging(items: u64, mark: Option<Mark>, partners: &[&[u16]]) -> Bench {
    let mut bench = Bench::new(partners);
    bench.kill(0);
    bench.restart(0, items);
    let process = process(&bench);
    bench.peers[0].answer.known = mark.map(|mark| mark(process));
    bench.peers[0].alive = true;
    bench.muted.insert(HEALER);
    bench.follow(HEALER);
    bench.pass_ms(300);
    assert_eq!(bench.phase(0), Purging);
    bench
}

/// The one that answers at the primary.
fn process(bench: &Bench) -> Process {
    Process::of(bench.peers[0].answer.identity.as_ref().unwrap())
}

fn started(later_s: i64, process: Process) -> Process {
    Process {
        started_unix_s: process.started_unix_s + later_s,
        ..process
    }
}

#[test]
fn what_another_proxy_has_healed_is_not_flushed() {
    // Items, the mark, whether it is flushed, whether its items are known.
    let cases: [(u64, Option<Mark>, bool); 6] = [
        (0, None, true),
        (3, None, false),
        (3, Some(|process| process), true),
        (3, Some(|process| started(-1, process)), true),
        // Of who ran there before and left its items.
        (3, Some(|process| started(-2, process)), false),
        (
            3,
            Some(|process| Process {
                pid: process.pid + 1,
                ..process
            }),
            false,
        ),
    ];
    for (index, (items, mark, known)) in cases.into_iter().enumerate() {
        let bench = purging(items, mark, PAIR);
        let view = &bench.view.backends[0];
        assert_eq!(view.flush, !known, "case {index}");
        assert_eq!(view.known, known.then(|| process(&bench)), "case {index}");
    }
}

#[test]
fn whoever_was_flushed_is_known_from_then_on() {
    let mut bench = purging(3, None, PAIR);
    bench.unmute(HEALER);
    assert_eq!(bench.phase(0), CatchingUp);
    assert_eq!(bench.view.backends[0].known, Some(process(&bench)));
    bench.kill(0);
    assert_eq!(bench.phase(0), Down);
    assert_eq!(
        bench.view.backends[0].known, None,
        "somebody else may be back"
    );
    // It was not restarted: what it missed is deleted, and others know it as long as we do.
    bench.revive(0);
    assert_eq!(bench.view.backends[0].known, None);
}

#[test]
fn more_was_missed_than_can_be_compared() {
    let mut bench = Bench::new(PAIR);
    bench.kill(0);
    bench.restart(0, 3);
    bench.peers[0].answer.known = Some(process(&bench));
    bench.say(HEALER, Report::Overflow { backend: id(0) });
    bench.muted.insert(HEALER);
    bench.follow(HEALER);
    bench.peers[0].alive = true;
    bench.pass_ms(300);
    let view = &bench.view.backends[0];
    assert_eq!((view.phase, view.flush, view.known), (Purging, true, None));
}

/// It would answer `ERROR` to all that the healer says.
#[test]
fn what_knows_no_meta_commands_is_not_compared() {
    for (version, compared) in [("1.5.22", false), ("1.6.9", false), ("1.6.10", true)] {
        let mut bench = Bench::new(PAIR);
        bench.kill(0);
        bench.restart(0, 0);
        bench.peers[0].answer.version = Version::parse(version.as_bytes());
        bench.muted.insert(HEALER);
        bench.follow(HEALER);
        bench.peers[0].alive = true;
        bench.pass_ms(300);
        let view = &bench.view.backends[0];
        assert_eq!(view.phase, Purging);
        assert_eq!(
            (view.known.is_some(), view.flush),
            (compared, false),
            "{version}"
        );
    }
}

#[test]
fn without_partners_nothing_is_compared() {
    let mut bench = Bench::new(&[&[]]);
    bench.kill(0);
    bench.restart(0, 0);
    bench.revive(0);
    assert_eq!(bench.view.backends[0].known, None);
}

#[test]
fn the_healer_may_have_more_to_purge_than_it_said() {
    let mut bench = Bench::new(PAIR);
    bench.kill(0);
    bench.restart(0, 0);
    bench.peers[0].alive = true;
    bench.muted.extend([HEALER, SECOND]);
    bench.follow(HEALER);
    bench.follow(SECOND);
    bench.pass_ms(300);
    assert_eq!(bench.phase(0), Purging);
    let (backend, incarnation) = (id(0), bench.incarnation(0));
    let purged = Report::Purged {
        backend,
        incarnation,
    };
    let more = Report::Purging {
        backend,
        incarnation,
    };
    bench.say(HEALER, purged);
    // Before a worker says that it has purged, the healer is given what that has named.
    bench.say(HEALER, more);
    bench.say(HEALER, more);
    bench.unmute(SECOND);
    assert_eq!(bench.phase(0), Purging);
    bench.say(
        HEALER,
        Report::Purging {
            backend,
            incarnation: incarnation - 1,
        },
    );
    bench.say(HEALER, purged);
    assert_eq!(bench.phase(0), CatchingUp);
    bench.say(HEALER, more);
    assert_eq!(bench.phase(0), CatchingUp, "who has purged is done");
}
