//! A target that is a new process, which another proxy may have filled and read: what it missed is compared with
//! what leads, and nothing is deleted that the other proxy may rely on.

use magent_core::config::Config;
use magent_core::keeper::{Failure, Report};
use magent_core::placement::Phase;

use super::lab::{Lab, PROCESS};
use super::{S, T, failed, pair};

/// Both have `a`, and the target is back.
fn pair_with(ours: &str, theirs: &str) -> Lab {
    let mut lab = pair();
    lab.set(T, "a", ours);
    lab.set(S, "a", theirs);
    returned(lab)
}

fn returned(mut lab: Lab) -> Lab {
    lab.return_known(T);
    lab.settle_down();
    lab
}

fn purged(lab: &Lab) -> Report {
    Report::Purged {
        backend: T,
        incarnation: lab.view.backends[T.index()].incarnation,
    }
}

fn mark_of(lab: &Lab) -> Option<String> {
    let key = lab.nodes[T.index()].told.iter().find_map(|command| {
        let key = command.strip_prefix("ms ")?.split(' ').next()?;
        key.starts_with("magent.known.").then(|| key.to_owned())
    });
    lab.value(T, &key?)
}

#[test]
fn what_is_the_same_is_never_missed() {
    let mut lab = pair_with("1", "1");
    assert!(lab.has_said(purged(&lab)), "nothing was named yet");
    lab.missed(T, &["a"]);
    let more = Report::Purging {
        backend: T,
        incarnation: 0,
    };
    assert!(lab.has_said(more));
    while !lab.has_said(purged(&lab)) {
        assert!(lab.step(0).is_some(), "it never ends");
        assert_eq!(lab.value(T, "a").as_deref(), Some("1"));
    }
    lab.catch_up(T, &[S]);
    lab.pass_ms(500);
    assert!(lab.has_said(lab.copied(T, S)));
    assert_eq!(lab.told(T, "md"), 0);
    lab.assert_equal(T, S);
}

#[test]
fn what_differs_is_deleted_and_copied_anew() {
    for (ours, theirs) in [
        ("set a 0 0 1\r\n1\r\n", "set a 0 0 1\r\n2\r\n"),
        ("set a 0 0 1\r\n1\r\n", "set a 1 0 1\r\n1\r\n"),
        ("set a 0 0 1\r\n1\r\n", "set a 0 50 1\r\n1\r\n"),
        ("set a 0 60 1\r\n1\r\n", "set a 0 50 1\r\n1\r\n"),
        ("set a 0 0 1\r\n1\r\n", "ms a 1\r\n1\r\nmd a I\r\n"),
        ("ms a 1\r\n1\r\nmd a I\r\n", "set a 0 0 1\r\n1\r\n"),
        ("set a 0 0 1\r\n1\r\n", "delete a\r\n"),
        ("delete a\r\n", "set a 0 0 1\r\n1\r\n"),
    ] {
        let mut lab = pair();
        lab.ask(T, ours);
        lab.ask(S, theirs);
        lab = returned(lab);
        lab.missed(T, &["a"]);
        lab.settle_down();
        assert!(lab.has_said(purged(&lab)), "{ours} {theirs}");
        assert_eq!(lab.value(T, "a"), None, "{ours} {theirs}");
        // Without a walk.
        lab.catch_up(T, &[]);
        lab.pass_ms(500);
        lab.assert_equal(T, S);
    }
}

#[test]
fn an_end_that_is_a_little_later_is_the_same() {
    let mut lab = pair();
    lab.ask(T, "set a 0 52 1\r\n1\r\n");
    lab.ask(S, "set a 0 50 1\r\n1\r\n");
    lab = returned(lab);
    lab.missed(T, &["a"]);
    lab.settle_down();
    assert!(lab.has_said(purged(&lab)));
    assert_eq!(lab.told(T, "md"), 0);
}

#[test]
fn what_is_not_there_is_not_asked_for_elsewhere() {
    let mut lab = pair();
    lab.set(S, "a", "1");
    lab = returned(lab);
    lab.missed(T, &["a"]);
    lab.settle_down();
    assert!(lab.has_said(purged(&lab)));
    assert_eq!((lab.told(T, "mg a "), lab.told(S, "mg a ")), (1, 0));
}

#[test]
fn who_replaced_it_meanwhile_knew_better() {
    let mut lab = pair_with("1", "2");
    lab.missed(T, &["a"]);
    lab.until_executed(S, "mg a ");
    // Another proxy, or a worker of this one: the write is told to both.
    lab.set(S, "a", "3");
    lab.set(T, "a", "3");
    lab.settle_down();
    assert!(lab.has_said(purged(&lab)));
    assert_eq!(lab.value(T, "a").as_deref(), Some("3"));
    assert_eq!(lab.told(T, "mg a "), 2, "it is compared once more");
}

#[test]
fn what_is_another_one_each_time_is_deleted() {
    let mut lab = pair_with("1", "2");
    lab.missed(T, &["a"]);
    for number in 0..4 {
        lab.until_executed(S, "mg a ");
        lab.set(T, "a", &format!("x{number}"));
    }
    lab.settle_down();
    assert!(lab.has_said(purged(&lab)));
    assert_eq!(lab.value(T, "a"), None);
}

#[test]
fn without_a_leader_it_is_deleted() {
    // When the source fails.
    for at in [None, Some((T, "mg a ")), Some((S, "mg a "))] {
        let mut lab = pair_with("1", "1");
        assert!(lab.has_said(purged(&lab)));
        if at.is_none() {
            lab.kill(S);
            lab.fail(S, &[]);
        }
        lab.missed(T, &["a"]);
        if let Some((backend, command)) = at {
            lab.until_executed(backend, command);
            lab.kill(S);
            lab.fail(S, &[]);
        }
        lab.settle_down();
        assert!(lab.has_said(purged(&lab)), "{at:?}");
        assert_eq!(lab.value(T, "a"), None, "{at:?}");
    }
}

#[test]
fn a_target_that_fails_meanwhile_is_purged_again() {
    // When it fails, and whether it is known when it is back.
    for at in ["mg a ", "md a "] {
        for known in [false, true] {
            let mut lab = pair_with("1", "2");
            lab.set(T, "b", "1");
            lab.set(S, "b", "1");
            lab.missed(T, &["a", "b"]);
            lab.until_executed(T, at);
            lab.cut(T);
            lab.pass_ms(0);
            let failure = failed(&lab, T, Failure::Reset);
            assert!(lab.has_said(failure), "{at}");
            lab.fail(T, &[]);
            lab.settle_down();
            lab.set(T, "a", "1");
            if known {
                lab.return_known(T);
            } else {
                lab.set_phase(T, Phase::Purging);
            }
            lab.pass_ms(50);
            assert!(lab.has_said(purged(&lab)), "{at}");
            assert_eq!(lab.value(T, "a"), None, "{at} {known}");
            assert_eq!(lab.value(T, "b").is_some(), known, "{at} {known}");
        }
    }
}

#[test]
fn names_that_come_too_late_wait_for_the_next_return() {
    let mut lab = pair_with("1", "2");
    lab.cut(T);
    lab.fail(T, &[]);
    lab.settle_down();
    lab.missed(T, &["a"]);
    lab.settle_down();
    assert_eq!(lab.value(T, "a").as_deref(), Some("1"));
    lab.return_known(T);
    lab.settle_down();
    assert!(lab.has_said(purged(&lab)));
    assert_eq!(lab.value(T, "a"), None);
}

#[test]
fn a_flush_makes_all_names_void() {
    let mut lab = pair_with("1", "2");
    lab.cut(T);
    lab.fail(T, &[]);
    lab.missed(T, &["a"]);
    lab.publish(|view| {
        let epoch = view.epoch;
        let this = &mut view.backends[T.index()];
        this.phase = Phase::Purging;
        this.since_epoch = epoch;
        this.flush = true;
    });
    lab.settle_down();
    assert!(lab.has_said(purged(&lab)));
    assert_eq!(lab.told(T, "mg a ") + lab.told(T, "md a "), 0);
}

#[test]
fn more_names_than_are_remembered_are_none() {
    let mut lab = Lab::with(1, 1, |config: &mut Config| {
        config.limits.remembered_keys_max = 2;
    });
    lab.return_known(T);
    lab.settle_down();
    lab.missed(T, &["a", "b", "c", "d"]);
    let overflow = Report::Overflow { backend: T };
    assert!(!lab.has_said(overflow));
    lab.missed(T, &["e"]);
    assert!(lab.has_said(overflow));
}

#[test]
fn a_win_that_was_taken_is_given_back() {
    let mut lab = pair();
    lab.set(T, "a", "1");
    lab.ask(S, "ms a 1\r\n1\r\nmd a I\r\n");
    lab = returned(lab);
    lab.missed(T, &["a"]);
    lab.settle_down();
    assert!(lab.has_said(purged(&lab)));
    let answer = lab.ask(S, "mg a v\r\n");
    assert!(answer.contains(" W"), "{answer}");
}

#[test]
fn it_is_done_at_the_rate_of_copies() {
    let mut lab = Lab::with(1, 1, |config: &mut Config| {
        config.limits.heal_items_per_s = 100;
        config.limits.heal_window = 10;
    });
    let keys: Vec<String> = (0..200).map(|number| format!("k{number}")).collect();
    for key in &keys {
        lab.set(T, key, "1");
        lab.set(S, key, "1");
    }
    lab.return_known(T);
    lab.settle_down();
    assert!(lab.has_said(purged(&lab)));
    let names: Vec<&str> = keys.iter().map(String::as_str).collect();
    lab.missed(T, &names);
    lab.pass_ms(100);
    assert!(!lab.has_said(purged(&lab)));
    lab.pass_ms(3_000);
    assert!(lab.has_said(purged(&lab)));
}

// -- The mark --

#[test]
fn other_proxies_are_told_that_it_was_empty() {
    let mut lab = returned(pair());
    assert_eq!(mark_of(&lab).as_deref(), Some("7 1700000090"));
    lab.catch_up(T, &[]);
    lab.settle_down();
    let marks = |lab: &Lab| lab.told(T, "ms magent.known.");
    assert_eq!(marks(&lab), 1);
    lab.cut(T);
    lab.fail(T, &[]);
    lab.set_phase(T, Phase::Purging);
    lab.pass_ms(50);
    assert_eq!(marks(&lab), 1, "who answers now is not known");
}

#[test]
fn or_that_it_was_emptied() {
    let mut lab = pair();
    lab.set_phase(T, Phase::Purging);
    lab.settle_down();
    assert_eq!(mark_of(&lab), None);
    lab.publish(|view| {
        let this = &mut view.backends[T.index()];
        this.phase = Phase::CatchingUp;
        this.known = Some(PROCESS);
    });
    lab.settle_down();
    assert_eq!(mark_of(&lab).as_deref(), Some("7 1700000090"));
}

#[test]
fn a_mark_is_not_copied() {
    let mut lab = pair();
    let key = (0..100)
        .map(|number| format!("magent.known.{number}"))
        .find(|key| lab.is_of(key.as_bytes(), T, S))
        .unwrap();
    lab.set(S, &key, "1 1");
    lab.set(S, "a", "1");
    lab.catch_up(T, &[S]);
    lab.pass_ms(500);
    assert!(lab.has_said(lab.copied(T, S)));
    assert_eq!(lab.value(T, "a").as_deref(), Some("1"));
    assert_eq!(lab.value(T, &key), None);
}
