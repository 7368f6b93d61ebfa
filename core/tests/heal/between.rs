//! What clients do between the messages of a copy: changes, stale items, versions.

use magent_core::BackendId;
use magent_core::placement::Phase;
use magent_node::StoreConfig;

use super::lab::{Lab, Step};
use super::{NOT_BUSY, S, T, pair, pair_with_single};

// -- In between --

#[test]
fn gone_between_walk_and_read() {
    let mut lab = pair();
    lab.set(S, "a", "1");
    lab.catch_up(T, &[S]);
    lab.until_executed(S, "lru_crawler");
    lab.ask(S, "delete a\r\n");
    lab.pass_ms(500);
    assert!(lab.has_said(lab.copied(T, S)));
    assert_eq!(lab.value(T, "a"), None);
}

#[test]
fn changed_between_read_and_look_back() {
    // The worker tells the target before, or after, the copy arrives, or has not yet told it.
    for told_when in ["before", "after", "later"] {
        let mut lab = pair_with_single("a");
        lab.set(S, "a", "old");
        lab.until_executed(S, "mg a k f");
        lab.set(S, "a", "new");
        if told_when == "before" {
            lab.set(T, "a", "new");
        }
        lab.until_executed(T, "ms a");
        if told_when == "after" {
            lab.set(T, "a", "new");
        }
        lab.pass_ms(500);
        assert_eq!(lab.value(T, "a").as_deref(), Some("new"), "{told_when}");
        if told_when == "later" {
            lab.set(T, "a", "new");
        }
        assert!(lab.has_said(NOT_BUSY));
        lab.assert_equal(T, S);
    }
}

#[test]
fn deleted_between_read_and_look_back() {
    let mut lab = pair_with_single("a");
    lab.set(S, "a", "old");
    lab.until_executed(S, "mg a k f");
    lab.ask(S, "delete a\r\n");
    lab.ask(T, "delete a\r\n");
    lab.until_executed(T, "ms a");
    assert_eq!(lab.value(T, "a").as_deref(), Some("old"));
    lab.pass_ms(500);
    assert_eq!(lab.value(T, "a"), None);
    assert!(lab.has_said(NOT_BUSY));
}

#[test]
fn what_replaced_a_copy_is_not_deleted_with_it() {
    let mut lab = pair_with_single("a");
    lab.set(S, "a", "old");
    lab.until_executed(T, "ms a");
    lab.set(S, "a", "new");
    lab.until(|_, step| matches!(step, Step::Heard(S, answer) if answer.starts_with("HD ka t")));
    lab.set(T, "a", "new");
    lab.until_executed(T, "md a C");
    assert_eq!(lab.value(T, "a").as_deref(), Some("new"));
}

#[test]
fn touched_between_read_and_look_back() {
    for (before, after) in [(0, 100), (100, 0), (100, 5_000), (100, 103)] {
        let mut lab = pair_with_single("a");
        lab.ask(S, format!("set a 0 {before} 1\r\n1\r\n"));
        lab.until_executed(T, "ms a");
        lab.ask(S, format!("touch a {after}\r\n"));
        lab.pass_ms(500);
        lab.assert_equal(T, S);
        assert_eq!(lab.told(T, "ms a"), 2);
        assert!(lab.has_said(NOT_BUSY));
    }
}

#[test]
fn seconds_that_tick_in_between_are_no_touch() {
    let mut lab = pair();
    lab.ask(S, "set a 0 100 1\r\n1\r\n");
    lab.pass_ms(990);
    lab.catch_up(T, &[]);
    lab.recopy(T, &["a"]);
    lab.until_executed(T, "ms a");
    lab.now = lab.now.after_ms(20);
    lab.settle_down();
    assert_eq!(lab.told(T, "md a"), 0);
    lab.assert_equal(T, S);
}

#[test]
fn what_the_target_has_is_never_replaced() {
    let mut lab = pair();
    lab.set(S, "a", "source");
    lab.set(T, "a", "newer");
    lab.catch_up(T, &[S]);
    lab.pass_ms(500);
    assert!(lab.has_said(lab.copied(T, S)));
    assert_eq!(lab.value(T, "a").as_deref(), Some("newer"));
}

#[test]
fn a_key_that_changes_all_the_time_ends() {
    for follower_knows in [true, false] {
        let mut lab = pair();
        lab.set(S, "hot", "0");
        lab.catch_up(T, &[S]);
        let mut reads = 0;
        lab.pass_ms_with(400, |lab, step| {
            if matches!(step, Step::Executed(S, command) if command.starts_with("mg hot k f")) {
                reads += 1;
                lab.set(S, "hot", &reads.to_string());
                if follower_knows {
                    lab.set(T, "hot", &reads.to_string());
                }
            }
        });
        if follower_knows {
            assert!(lab.has_said(lab.copied(T, S)), "{reads} reads");
            assert!(reads < 10, "{reads}");
        } else {
            assert!(reads > 5, "{reads}");
            assert!(reads < 50, "it is set aside for a while: {reads}");
            assert!(!lab.has_said(lab.copied(T, S)));
            lab.pass_ms(500);
            assert!(lab.has_said(lab.copied(T, S)));
        }
        lab.assert_equal(T, S);
    }
}

// -- Stale items --

/// How many of so many readers win.
fn wins(lab: &mut Lab, backend: BackendId, key: &str) -> usize {
    let answers = (0..3).map(|_| lab.ask(backend, format!("mg {key} t v\r\n")));
    answers.filter(|answer| answer.contains(" W")).count()
}

#[test]
fn the_win_of_a_stale_item_is_given_back_once() {
    let mut lab = pair();
    lab.set(S, "a", "1");
    lab.ask(S, "md a I T30\r\n");
    lab.catch_up(T, &[S]);
    lab.pass_ms(500);
    assert!(lab.has_said(lab.copied(T, S)));
    lab.assert_equal(T, S);
    assert_eq!(lab.told(S, "md a I"), 1);
    assert_eq!(wins(&mut lab, S, "a"), 1);
    assert_eq!(wins(&mut lab, T, "a"), 1);
}

#[test]
fn a_win_that_a_client_has_stays_its_own() {
    let mut lab = pair();
    lab.set(S, "a", "1");
    lab.ask(S, "md a I T30\r\n");
    assert!(lab.ask(S, "mg a\r\n").contains('W'));
    lab.catch_up(T, &[S]);
    lab.pass_ms(500);
    assert!(lab.has_said(lab.copied(T, S)));
    assert_eq!(wins(&mut lab, S, "a"), 0);
    lab.assert_equal(T, S);
}

#[test]
fn marked_stale_between_read_and_look_back() {
    let mut lab = pair_with_single("a");
    lab.set(S, "a", "1");
    lab.until_executed(T, "ms a");
    lab.ask(S, "md a I T30\r\n");
    lab.pass_ms(500);
    assert!(lab.has_said(NOT_BUSY));
    lab.assert_equal(T, S);
    assert_eq!(wins(&mut lab, S, "a"), 1);
    assert_eq!(wins(&mut lab, T, "a"), 1);
}

#[test]
fn a_new_item_has_no_win_to_give_back() {
    let mut lab = pair_with_single("a");
    lab.set(S, "a", "1");
    lab.ask(S, "md a I T30\r\n");
    lab.until_executed(T, "ms a");
    lab.set(S, "a", "2");
    lab.pass_ms(500);
    lab.assert_equal(T, S);
    assert_eq!(wins(&mut lab, S, "a"), 0);
    assert_eq!(lab.value(T, "a").as_deref(), Some("2"));
}

#[test]
fn a_win_is_given_back_when_the_target_fails() {
    for at in ["mg a k f", "ms a", "mg a k t"] {
        let mut lab = pair_with_single("a");
        lab.set(S, "a", "1");
        lab.ask(S, "md a I T30\r\n");
        let backend = if at.starts_with("ms") { T } else { S };
        lab.until_executed(backend, at);
        lab.kill(T);
        lab.fail(T, &[]);
        lab.pass_ms(500);
        assert_eq!(wins(&mut lab, S, "a"), 1, "{at}");
    }
}

#[test]
fn a_win_that_its_source_took_along_is_given_back_at_its_return() {
    let mut lab = pair_with_single("a");
    lab.set(S, "a", "1");
    lab.ask(S, "md a I T30\r\n");
    lab.until_executed(T, "ms a");
    lab.kill(S);
    lab.fail(S, &[T]);
    lab.settle_down();
    assert_eq!(wins(&mut lab, S, "a"), 0);
    lab.nodes[S.index()].dead = false;
    lab.set_phase(S, Phase::Purging);
    lab.settle_down();
    assert_eq!(wins(&mut lab, S, "a"), 1);
}

#[test]
fn the_stub_of_a_client_that_brings_an_item_is_not_copied() {
    let mut lab = pair();
    assert!(lab.ask(S, "mg a N30 v\r\n").contains('W'));
    lab.catch_up(T, &[S]);
    lab.pass_ms(500);
    assert!(lab.has_said(lab.copied(T, S)));
    assert_eq!(lab.value(T, "a"), None);
    assert_eq!(lab.progress[0].look(lab.now).items_skipped, 1);
}

// -- Versions --

/// Both let their clients choose CAS uniques.
fn pair_with_versions() -> Lab {
    let mut lab = pair();
    for node in &mut lab.nodes {
        node.store = magent_node::Store::new(StoreConfig {
            meta_cas: true,
            ..StoreConfig::default()
        });
    }
    for backend in &mut lab.view.backends {
        backend.explicit_cas = true;
    }
    lab
}

const VERSION: u64 = 1 << 62 | 12_345;

#[test]
fn a_version_is_part_of_the_item() {
    let mut lab = pair_with_versions();
    lab.ask(S, format!("ms a 2 F7 T90 E{VERSION}\r\nab\r\n"));
    lab.set(S, "without", "v");
    lab.catch_up(T, &[S]);
    lab.pass_ms(500);
    assert!(lab.has_said(lab.copied(T, S)));
    lab.assert_equal(T, S);
    assert_eq!(lab.ask(T, "mg a c\r\n"), format!("HD c{VERSION}\r\n"));
    assert_eq!(lab.ask(T, "mg without c\r\n"), "HD c2\r\n");
}

#[test]
fn what_a_worker_stored_with_the_same_version_is_no_copy() {
    let mut lab = pair_with_versions();
    lab.catch_up(T, &[]);
    lab.recopy(T, &["a"]);
    let set = format!("ms a 1 E{VERSION}\r\n1\r\n");
    lab.ask(S, &set);
    lab.until_executed(T, "ms a");
    // The worker is later than the healer, and its next write is under way.
    lab.ask(T, &set);
    lab.set(S, "a", "2");
    lab.until_executed(T, "md a");
    assert_eq!(lab.value(T, "a").as_deref(), Some("1"));
}
