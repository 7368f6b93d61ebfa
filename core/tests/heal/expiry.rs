//! When copies end: at the same moment as their items, however often they are copied.

use magent_core::BackendId;
use magent_core::placement::Phase;

use super::lab::{Lab, Step};
use super::{S, T, pair, pair_with_single};

/// Life in seconds: short, just short of what is taken for a date, and a date.
const LIVES_S: [u64; 4] = [200, 5_000, 2_592_000, 8_000_000];

fn store_lives(lab: &mut Lab) -> Vec<String> {
    let keys = LIVES_S.map(|life_s| {
        let key = format!("life{life_s}");
        let exptime = if life_s > 2_592_000 {
            1_700_000_100 + life_s
        } else {
            life_s
        };
        lab.ask(S, format!("set {key} 0 {exptime} 1\r\n1\r\n"));
        key
    });
    keys.to_vec()
}

/// A target that has lost everything is given the items of its source.
fn heal(lab: &mut Lab, source: BackendId, target: BackendId, ahead_ms: u64) {
    lab.restart(target, ahead_ms);
    lab.set_phase(target, Phase::Purging);
    lab.catch_up(target, &[source]);
    pass_until_copied(lab, source, target);
    lab.set_phase(target, Phase::Flipping);
    lab.set_phase(target, Phase::Up);
    lab.settle_down();
}

/// Not at once if the difference of their clocks is news.
fn pass_until_copied(lab: &mut Lab, source: BackendId, target: BackendId) {
    let copied = |lab: &mut Lab| lab.has_said(lab.copied(target, source));
    for _ in 0..100 {
        if copied(lab) {
            return;
        }
        lab.pass_ms(100);
    }
    panic!("nothing is copied");
}

#[test]
fn a_clock_that_stands_still_for_a_while_is_not_believed() {
    // As that of a memcached whose main thread finds no CPU: other threads answer meanwhile.
    let mut lab = pair();
    lab.nodes[S.index()].ahead_ms = 10_000;
    lab.nodes[T.index()].ahead_ms = 10_000;
    let keys = store_lives(&mut lab);
    lab.nodes[T.index()].ahead_ms = 4_000;
    lab.set_phase(T, Phase::Purging);
    lab.catch_up(T, &[S]);
    lab.pass_ms(800);
    assert!(!lab.has_said(lab.copied(T, S)));
    lab.nodes[T.index()].ahead_ms = 10_000;
    pass_until_copied(&mut lab, S, T);
    for key in &keys {
        let both = [S, T].map(|id| lab.ttl_s(id, key).unwrap());
        assert!(both[0].abs_diff(both[1]) <= 1, "{key}: {both:?} s");
    }
}

/// Heals to and fro. `ahead_ms` says how far the clock of a backend is ahead when it is started for the n-th time.
/// Yields by how many ms the ends of all items were off, and by how many seconds both counted differently.
fn to_and_fro(rounds: u64, ahead_ms: impl Fn(BackendId, u64) -> u64) -> (i64, i64, u64) {
    let mut lab = pair();
    lab.nodes[S.index()].ahead_ms = ahead_ms(S, 0);
    lab.nodes[T.index()].ahead_ms = ahead_ms(T, 0);
    let keys = store_lives(&mut lab);
    let started = lab.now;
    let ends: Vec<u64> = keys
        .iter()
        .map(|key| lab.left_ms(S, key).unwrap())
        .collect();
    let (mut earliest, mut latest, mut apart_s) = (0, 0, 0);
    for round in 1..=rounds {
        let (source, target) = if round % 2 == 1 { (S, T) } else { (T, S) };
        heal(&mut lab, source, target, ahead_ms(target, round));
        for (key, end) in keys.iter().zip(&ends) {
            let end_now = lab.now.ms_since(started) + lab.left_ms(target, key).unwrap();
            let off = i64::try_from(end_now).unwrap() - i64::try_from(*end).unwrap();
            earliest = earliest.min(off);
            latest = latest.max(off);
        }
        for step in 0..10 {
            for key in &keys {
                let both = [S, T].map(|id| lab.ttl_s(id, key).unwrap());
                apart_s = apart_s.max(both[0].abs_diff(both[1]));
            }
            lab.pass_ms(100 + 13 * step);
        }
    }
    (earliest, latest, apart_s)
}

#[test]
fn to_and_fro_on_one_clock() {
    for phase_ms in [0, 1, 370, 500, 999] {
        let ahead_ms = |id, _| if id == T { phase_ms } else { 0 };
        let (earliest, latest, apart_s) = to_and_fro(20, ahead_ms);
        assert!(earliest > -1_000 && latest == 0, "{earliest}..{latest} ms");
        assert!(apart_s <= 1, "{apart_s} s");
    }
}

#[test]
fn to_and_fro_with_ticks_at_other_moments_after_each_start() {
    // 0.618 of a second: spread as evenly as can be.
    let (earliest, latest, apart_s) = to_and_fro(20, |_, round| round * 618 % 1_000);
    assert!(earliest > -1_000 && latest <= 0, "{earliest}..{latest} ms");
    assert!(apart_s <= 1, "{apart_s} s");
}

#[test]
fn to_and_fro_between_clocks_that_differ() {
    for (there_ms, here_ms) in [
        (7_400, 0),
        (0, 7_400),
        (3_600_000, 500),
        (1_999, 0),
        (2_600, 0),
    ] {
        let ahead_ms = |id, _| if id == T { there_ms } else { here_ms };
        let (earliest, latest, apart_s) = to_and_fro(20, ahead_ms);
        assert!(
            earliest >= -2_000 && latest < 1_000,
            "{there_ms} and {here_ms}: {earliest}..{latest} ms"
        );
        assert!(apart_s <= 2, "{there_ms} and {here_ms}: {apart_s} s");
    }
}

#[test]
fn single_keys_never_end_later() {
    for begins_ms in [0, 250, 500, 750, 990] {
        let mut lab = pair();
        lab.nodes[T.index()].ahead_ms = 400;
        let keys = store_lives(&mut lab);
        lab.pass_ms(begins_ms);
        lab.catch_up(T, &[]);
        for key in &keys {
            lab.recopy(T, &[key]);
        }
        lab.pass_ms(100);
        for key in &keys {
            let [there, here] = [T, S].map(|id| lab.left_ms(id, key).unwrap());
            assert!(
                there <= here && there + 2_000 > here,
                "{there} and {here} ms"
            );
        }
    }
}

#[test]
fn touched_between_walk_and_read() {
    for life_s in [150, 201, 202, 4_000, 9_000_000] {
        let mut lab = pair();
        let keys = store_lives(&mut lab);
        lab.catch_up(T, &[S]);
        lab.until_executed(S, "lru_crawler");
        let exptime = if life_s > 2_592_000 {
            1_700_000_100 + life_s
        } else {
            life_s
        };
        for key in &keys {
            lab.ask(S, format!("touch {key} {exptime}\r\n"));
        }
        lab.pass_ms(300);
        for key in &keys {
            let [there, here] = [T, S].map(|id| lab.ttl_s(id, key).unwrap());
            assert!(there <= here && there + 1 >= here, "{there} and {here} s");
        }
    }
}

#[test]
fn the_last_date_of_all() {
    let mut lab = pair();
    // It would be beyond the last date by the target's clock.
    lab.nodes[T.index()].ahead_ms = 5_000;
    lab.ask(S, "set a 0 2147483647 1\r\n1\r\n");
    lab.catch_up(T, &[S]);
    pass_until_copied(&mut lab, S, T);
    let [there, here] = [T, S].map(|id| lab.ttl_s(id, "a").unwrap());
    assert_eq!(here - there, 5);
    assert!(
        lab.nodes[T.index()]
            .told
            .iter()
            .any(|told| told.contains(" T2147483647 "))
    );
}

#[test]
fn no_end_stays_no_end() {
    let mut lab = pair();
    lab.nodes[T.index()].ahead_ms = 5_000;
    lab.set(S, "a", "1");
    lab.catch_up(T, &[S]);
    pass_until_copied(&mut lab, S, T);
    assert_eq!(lab.value(T, "a").as_deref(), Some("1"));
    assert_eq!(lab.ttl_s(T, "a"), None);
}

#[test]
fn a_clock_is_read_again_after_a_while() {
    let mut lab = pair();
    lab.catch_up(T, &[]);
    for _ in 0..4 {
        lab.ask(S, "set a 0 100 1\r\n1\r\n");
        lab.ask(T, "delete a\r\n");
        lab.recopy(T, &["a"]);
        lab.pass_ms(200);
        lab.assert_equal(T, S);
    }
    // When either connection was there, and after 400 ms.
    assert_eq!(lab.told(S, "stats"), 3);
}

// -- About to expire --

#[test]
fn a_share_waits_until_what_is_about_to_expire_has_expired() {
    let mut lab = pair();
    lab.ask(S, "set brief 0 1 1\r\n1\r\n");
    lab.set(S, "a", "1");
    lab.catch_up(T, &[S]);
    lab.pass_ms(900);
    assert!(!lab.has_said(lab.copied(T, S)), "somebody may touch it");
    assert_eq!(lab.value(T, "brief"), None);
    lab.pass_ms(300);
    assert!(lab.has_said(lab.copied(T, S)));
    assert_eq!(lab.value(T, "brief"), None);
    assert_eq!(lab.progress[0].look(lab.now).items_done, 2);
}

#[test]
fn what_is_touched_before_it_expires_is_copied() {
    let mut lab = pair();
    lab.ask(S, "set brief 0 1 1\r\n1\r\n");
    lab.catch_up(T, &[S]);
    lab.pass_ms(500);
    // Through a proxy that takes the target for healed, and tells it so in vain.
    lab.ask(S, "touch brief 50\r\n");
    lab.ask(T, "touch brief 50\r\n");
    lab.pass_ms(800);
    assert!(lab.has_said(lab.copied(T, S)));
    assert_eq!(lab.value(T, "brief").as_deref(), Some("1"));
    lab.assert_equal(T, S);
}

#[test]
fn what_always_has_a_second_to_live_holds_up_nothing() {
    let mut lab = pair();
    lab.ask(S, "set brief 0 1 1\r\n1\r\n");
    lab.catch_up(T, &[S]);
    for _ in 0..4 {
        lab.pass_ms(400);
        lab.ask(S, "touch brief 1\r\n");
    }
    assert!(lab.has_said(lab.copied(T, S)));
    // A single key is not waited for: conditional commands would wait, too.
    let mut lab = pair_with_single("brief");
    lab.ask(S, "set brief 0 1 1\r\n1\r\n");
    let read = |_: &mut Lab, step: &Step| matches!(step, Step::Heard(S, answer) if answer.starts_with("VA 1 kbrief"));
    assert!(lab.until(read));
    assert!(lab.has_said(super::NOT_BUSY));
}
