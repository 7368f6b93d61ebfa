//! Who leads when both have been gone, and what a later process has to know.

use magent_core::Time;
use magent_core::keeper::{Identity, Keeper, Remains, Report};
use magent_core::placement::Phase::{CatchingUp, Cleaning, Down, Flipping, Purging, Up};

use crate::bench::{Bench, FIRST, HEALER, PAIR, SECOND, STAR, id};
use crate::plan_of;

#[test]
fn who_led_without_the_others_items_copies_them_when_the_other_is_back() {
    let mut bench = Bench::new(PAIR);
    bench.kill(1);
    bench.kill(0);
    bench.revive_empty(0);
    assert_eq!(bench.phase(0), Up, "there is nobody to copy from");
    bench.muted.insert(HEALER);
    bench.follow(HEALER);
    bench.peers[1].alive = true;
    bench.pass_ms(1_000);
    assert_eq!(
        bench.phase(1),
        Purging,
        "it missed what 0 was told meanwhile"
    );
    assert_eq!(plan_of(&bench, 0, 1).authority, Some(id(0)));
    bench.unmute(HEALER);
    assert_eq!(bench.phase(1), Up);
    assert_eq!((bench.phase(0), bench.sources(0)), (CatchingUp, vec![1]));
    assert_eq!(plan_of(&bench, 0, 1).authority, Some(id(1)), "it has more");
    bench.copied(0, 1);
    assert_eq!(bench.phase(0), Up);
    assert!(!bench.missed(0) && !bench.missed(1));
}

#[test]
fn of_two_that_catch_up_the_first_leads_and_the_other_copies() {
    let mut bench = Bench::new(PAIR);
    bench.kill(0);
    bench.kill(1);
    bench.busy(1, true);
    bench.revive_empty(1);
    bench.revive_empty(0);
    assert_eq!((bench.phase(0), bench.phase(1)), (CatchingUp, CatchingUp));
    assert_eq!(plan_of(&bench, 0, 1).authority, Some(id(1)));
    assert_eq!((bench.sources(0), bench.sources(1)), (vec![1], vec![]));
    // The one that leads fails: what was copied from it has to be looked at.
    bench.muted.insert(HEALER);
    bench.kill(1);
    assert_eq!(bench.phase(0), Cleaning);
}

/// 2 backs up 0 and 1. It led for both, empty, while 0 and 1 were gone.
fn led_empty() -> Bench {
    let mut bench = Bench::new(STAR);
    for backend in [2, 0, 1] {
        bench.kill(backend);
    }
    bench.revive_empty(2);
    assert_eq!(bench.phase(2), Up);
    bench
}

#[test]
fn who_goes_back_to_catching_up_still_leads_those_that_copy_from_it() {
    let mut bench = led_empty();
    bench.revive_empty(0);
    assert_eq!((bench.phase(0), bench.sources(0)), (CatchingUp, vec![2]));
    bench.revive(1);
    assert_eq!(bench.phase(1), Up);
    // 2 copies from 1 what it lacks, and 0 goes on copying from 2.
    assert_eq!((bench.phase(2), bench.sources(2)), (CatchingUp, vec![1]));
    assert_eq!((bench.phase(0), bench.sources(0)), (CatchingUp, vec![2]));
    assert_eq!(plan_of(&bench, 1, 2).authority, Some(id(1)));
    assert_eq!(
        plan_of(&bench, 0, 2).authority,
        Some(id(2)),
        "0 lacks items"
    );
    bench.copied(2, 1);
    assert_eq!((bench.phase(2), bench.phase(0)), (Up, CatchingUp));
    bench.copied(0, 2);
    assert_eq!(bench.phase(0), Up);
    // 2 lacked the share of 0 as well.
    assert_eq!((bench.phase(2), bench.sources(2)), (CatchingUp, vec![0]));
    bench.copied(2, 0);
    assert_eq!(bench.phase(2), Up);
}

#[test]
fn whom_a_cleaned_one_leads_does_not_lead_instead() {
    let mut bench = led_empty();
    bench.revive_empty(0);
    bench.revive(1);
    bench.muted.insert(HEALER);
    bench.kill(1);
    assert_eq!(bench.phase(2), Cleaning);
    let plan = plan_of(&bench, 0, 2);
    assert_eq!(
        (plan.authority, plan.soon),
        (None, true),
        "0 lacks items and may hold old copies"
    );
    bench.unmute(HEALER);
    assert_eq!(plan_of(&bench, 0, 2).authority, Some(id(2)));
    assert_eq!(bench.sources(0), [2]);
}

#[test]
fn a_flip_ends_in_more_copying_if_a_source_is_back() {
    let mut bench = led_empty();
    bench.muted.insert(SECOND);
    bench.lacks(2, None);
    bench.busy(2, true);
    bench.unmute(SECOND);
    // 2 is up; it goes back to catching up with the first that is up, and flips when the second one is.
    bench.revive(1);
    assert_eq!((bench.phase(2), bench.sources(2)), (CatchingUp, vec![1]));
    bench.busy(2, false);
    bench.busy(0, true);
    bench.revive(0);
    assert_eq!(bench.phase(0), CatchingUp);
    bench.muted.insert(SECOND);
    bench.copied(2, 1);
    assert_eq!(bench.phase(2), Flipping);
    bench.busy(0, false);
    assert_eq!(bench.phase(0), Flipping);
    bench.unmute(SECOND);
    assert_eq!(bench.phase(0), Up);
    assert_eq!((bench.phase(2), bench.sources(2)), (CatchingUp, vec![0]));
}

#[test]
fn missed_means_that_others_were_told() {
    let mut bench = Bench::new(PAIR);
    bench.kill(0);
    assert!(bench.missed(0) && !bench.missed(1));
    bench.kill(1);
    assert!(!bench.missed(1), "nobody leads");
    bench.revive(0);
    assert_eq!(bench.phase(0), Up);
    assert!(!bench.missed(0) && bench.missed(1), "0 leads");
}

#[test]
fn whoever_is_down_misses_what_one_that_was_being_purged_is_told_later() {
    let mut bench = Bench::new(PAIR);
    bench.kill(0);
    bench.muted.insert(HEALER);
    bench.follow(HEALER);
    bench.peers[0].alive = true;
    bench.pass_ms(200);
    assert_eq!(bench.phase(0), Purging);
    bench.kill(1);
    assert!(!bench.missed(1), "nobody leads");
    bench.unmute(HEALER);
    assert_eq!(bench.phase(0), Up);
    assert!(bench.missed(1));
}

#[test]
fn a_flush_that_all_missed_is_missed() {
    let mut bench = Bench::new(PAIR);
    bench.kill(1);
    bench.kill(0);
    let epoch = bench.view.epoch;
    bench.say(FIRST, Report::Overflow { backend: id(0) });
    assert!(bench.missed(0));
    assert!(bench.view.epoch > epoch, "it is written down with a View");
}

#[test]
fn unfinished_copies_are_missed() {
    let mut bench = led_empty();
    assert!(!bench.missed(2), "it leads");
    bench.revive(1);
    assert_eq!(bench.phase(2), CatchingUp);
    assert!(
        bench.missed(2),
        "a copy that nobody looked at again may be old"
    );
    bench.copied(2, 1);
    assert!(!bench.missed(2));
}

#[test]
fn an_overflow_flushes_unless_it_is_to_stay_down() {
    for (stay_down, items, expected) in [(false, 3, Purging), (true, 3, Down), (true, 0, Purging)] {
        let mut bench = Bench::with(PAIR, |config| config.stay_down = stay_down, |_, _| {});
        bench.kill(0);
        bench.say(SECOND, Report::Overflow { backend: id(0) });
        bench.muted.insert(HEALER);
        bench.follow(HEALER);
        bench.peers[0].answer.items = items;
        bench.revive(0);
        assert_eq!(bench.phase(0), expected, "{stay_down} {items}");
        assert_eq!(bench.view.backends[0].flush, expected == Purging);
        if expected == Purging {
            bench.unmute(HEALER);
            assert_eq!(bench.sources(0), [1], "what was flushed is copied");
            assert!(!bench.view.backends[0].flush);
        }
    }
}

#[test]
fn an_overflow_that_is_told_late_still_flushes() {
    let mut bench = Bench::new(PAIR);
    bench.kill(0);
    bench.muted.insert(SECOND);
    bench.follow(SECOND);
    bench.peers[0].alive = true;
    bench.pass_ms(200);
    assert_eq!(bench.phase(0), Purging);
    assert!(!bench.view.backends[0].flush);
    // Sent before this worker heard of the purge.
    bench.say(SECOND, Report::Overflow { backend: id(0) });
    assert_eq!(bench.phase(0), Down);
    bench.unmute(SECOND);
    bench.muted.insert(SECOND);
    bench.pass_ms(200);
    assert_eq!(bench.phase(0), Purging);
    assert!(bench.view.backends[0].flush);
    // Sent before its own flush, so this one does not begin again.
    bench.say(SECOND, Report::Overflow { backend: id(0) });
    assert_eq!(bench.phase(0), Purging);
    bench.unmute(SECOND);
    assert_eq!(bench.phase(0), CatchingUp);
}

#[test]
fn what_an_earlier_process_left() {
    // Asked once less than by the next process.
    let known = Bench::new(PAIR).peers[0]
        .answer
        .identity
        .map(|known| Identity {
            connections: known.connections - 1,
            ..known
        });
    let other = known.map(|known| Identity { pid: 77, ..known });
    for (identity, missed, walk) in [
        (known, false, [].as_slice()),
        (known, true, &[Down, Purging, CatchingUp]),
        (other, false, &[Down, Purging, CatchingUp]),
        (None, false, &[]),
    ] {
        let remains = Remains { identity, missed };
        let restore = |keeper: &mut Keeper, now: Time| {
            keeper.restore(now, id(0), remains);
        };
        let mut bench = Bench::with(PAIR, |_| {}, restore);
        assert_eq!(bench.missed(0), !walk.is_empty());
        bench.pass_ms(300);
        assert_eq!(bench.walked(0), walk, "{remains:?}");
        let flushed = bench.view.backends[0].sources == [id(1)];
        assert_eq!(flushed, !walk.is_empty());
    }
}

/// Found by seed 312500 of the simulator: it led without what the other one had been told, and was up at once.
#[test]
fn whoever_returns_while_the_one_that_leads_is_cleaned_does_not_lead() {
    let mut bench = Bench::new(STAR);
    bench.kill(1);
    bench.kill(2);
    bench.revive_empty(2);
    assert_eq!((bench.phase(2), bench.sources(2)), (CatchingUp, vec![0]));
    assert_eq!(plan_of(&bench, 1, 2).authority, Some(id(2)));
    bench.muted.insert(HEALER);
    bench.revive_empty(1);
    assert_eq!(bench.phase(1), Purging);
    bench.hold_probes = true;
    bench.unmute(HEALER);
    bench.muted.insert(SECOND);
    bench.kill(0);
    assert_eq!(bench.phase(2), Cleaning, "it was copied to from 0");
    bench.answer(1);
    assert!(plan_of(&bench, 1, 2).soon, "requests wait");
    bench.unmute(SECOND);
    assert_eq!((bench.phase(1), bench.phase(2)), (CatchingUp, CatchingUp));
    assert_eq!(bench.sources(1), [2]);
    assert_eq!(plan_of(&bench, 1, 2).authority, Some(id(2)));
}

#[test]
fn a_stranger_that_returns_while_the_one_that_leads_is_cleaned_is_flushed() {
    let mut bench = Bench::new(STAR);
    bench.kill(1);
    bench.kill(2);
    bench.revive_empty(2);
    bench.muted.insert(SECOND);
    bench.kill(0);
    assert_eq!(bench.phase(2), Cleaning);
    bench.restart(1, 3);
    bench.revive(1);
    assert_eq!(bench.phase(1), Purging);
    assert!(bench.view.backends[1].flush, "2 has what was written since");
}
