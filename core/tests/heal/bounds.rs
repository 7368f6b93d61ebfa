//! Rate, window and room; single keys and how many of them are kept.

use magent_core::keeper::Report;
use magent_core::placement::Phase;
use magent_node::StoreConfig;

use super::lab::{Lab, id};
use super::{BUSY, NOT_BUSY, S, T, pair, pair_with_single};

// -- Rate and room --

#[test]
fn the_rate_is_kept() {
    let mut lab = Lab::with(1, 1, |config| config.limits.heal_items_per_s = 100);
    for number in 0..300 {
        lab.set(S, &format!("k{number}"), "v");
    }
    lab.catch_up(T, &[S]);
    lab.pass_ms(1_000);
    let done = lab.progress[0].look(lab.now);
    assert!((90..=110).contains(&done.items_done), "{done:?}");
    assert_eq!(done.items_total, 300);
    assert!((90..=110).contains(&done.items_per_s()), "{done:?}");
    assert!(
        (1_700..2_300).contains(&done.remaining_ms().unwrap()),
        "{done:?}"
    );
    lab.pass_ms(2_200);
    assert!(lab.has_said(lab.copied(T, S)));
}

#[test]
fn the_rate_of_bytes_is_kept() {
    let mut lab = Lab::with(1, 1, |config| config.limits.heal_bytes_per_s = 1_000_000);
    let value = "v".repeat(100_000);
    for number in 0..30 {
        lab.set(S, &format!("k{number}"), &value);
    }
    lab.catch_up(T, &[S]);
    lab.pass_ms(1_000);
    let done = lab.progress[0].look(lab.now);
    assert!((9..=12).contains(&done.items_done), "{done:?}");
}

#[test]
fn large_values_on_their_way_are_bounded() {
    let mut lab = Lab::with(1, 1, |config| {
        config.limits.heal_bytes_per_s = 1_000_000_000;
    });
    let value = "v".repeat(900_000);
    for number in 0..30 {
        lab.set(S, &format!("k{number}"), &value);
    }
    lab.catch_up(T, &[S]);
    lab.until_executed(T, "stats");
    lab.nodes[T.index()].stopped = true;
    lab.settle_down();
    let read = lab.told(S, "mg k");
    assert!((8..=9).contains(&read), "{read} of 900 kB");
    lab.nodes[T.index()].stopped = false;
    lab.pass_ms(5_000);
    assert!(lab.has_said(lab.copied(T, S)));
    lab.assert_equal(T, S);
}

#[test]
fn the_window_is_kept() {
    let mut lab = Lab::with(1, 1, |config| config.limits.heal_window = 5);
    for number in 0..30 {
        lab.set(S, &format!("k{number}"), "v");
    }
    lab.catch_up(T, &[S]);
    lab.until_executed(T, "stats");
    lab.nodes[T.index()].stopped = true;
    lab.settle_down();
    assert_eq!(lab.told(S, "mg k"), 5);
}

#[test]
fn what_is_too_large_for_the_target_is_left_out() {
    let mut lab = pair();
    lab.nodes[T.index()].store = magent_node::Store::new(StoreConfig {
        item_len_max: 1_000,
        ..StoreConfig::default()
    });
    lab.set(S, "large", &"v".repeat(2_000));
    lab.set(S, "small", "v");
    lab.catch_up(T, &[S]);
    lab.pass_ms(500);
    assert!(lab.has_said(lab.copied(T, S)));
    assert_eq!(lab.value(T, "large"), None);
    assert_eq!(lab.value(T, "small").as_deref(), Some("v"));
    let progress = lab.progress[0].look(lab.now);
    assert_eq!((progress.items_done, progress.items_skipped), (2, 1));
}

#[test]
fn a_refusal_that_dropped_a_newer_item_is_made_up_for() {
    let mut lab = pair_with_single("a");
    lab.nodes[T.index()].store = magent_node::Store::new(StoreConfig {
        item_len_max: 1_000,
        ..StoreConfig::default()
    });
    lab.set(S, "a", &"v".repeat(2_000));
    lab.until_executed(S, "mg a k f");
    lab.set(S, "a", "new");
    lab.set(T, "a", "new");
    lab.pass_ms(500);
    lab.assert_equal(T, S);
}

#[test]
fn what_is_too_large_for_the_proxy_is_left_out() {
    let mut lab = Lab::with(1, 1, |config| config.limits.value_len_max = 1_024);
    lab.set(S, "large", &"v".repeat(5_000));
    lab.set(S, "small", "v");
    lab.catch_up(T, &[S]);
    lab.pass_ms(500);
    assert!(lab.has_said(lab.copied(T, S)));
    assert_eq!(lab.value(T, "large"), None);
    assert_eq!(lab.value(T, "small").as_deref(), Some("v"));
}

// -- Single keys --

#[test]
fn single_keys_are_copied_and_the_keeper_knows_of_them() {
    let mut lab = pair();
    lab.set(S, "a", "1");
    lab.set(S, "b", "2");
    lab.catch_up(T, &[]);
    lab.recopy(T, &["a", "b", "a", "missing"]);
    assert!(lab.has_said(BUSY));
    assert!(!lab.has_said(NOT_BUSY));
    lab.pass_ms(100);
    assert!(lab.has_said(NOT_BUSY));
    lab.assert_equal(T, S);
    assert_eq!(lab.told(S, "mg a k f"), 1);
}

#[test]
fn a_backend_in_step_is_given_nothing() {
    let mut lab = pair();
    lab.set(S, "a", "1");
    lab.recopy(T, &["a"]);
    lab.pass_ms(500);
    assert!(lab.reports.is_empty());
    assert_eq!(lab.value(T, "a"), None);
}

#[test]
fn single_keys_wait_for_their_target() {
    let mut lab = pair();
    lab.set(S, "a", "1");
    lab.fail(T, &[]);
    lab.recopy(T, &["a"]);
    assert!(lab.has_said(BUSY));
    for phase in [Phase::Purging, Phase::Cleaning] {
        lab.set_phase(T, phase);
        lab.pass_ms(500);
        assert!(!lab.has_said(NOT_BUSY), "{phase:?}");
        assert_eq!(lab.value(T, "a"), None);
    }
    lab.catch_up(T, &[]);
    lab.pass_ms(500);
    assert!(lab.has_said(NOT_BUSY));
    lab.assert_equal(T, S);
}

#[test]
fn single_keys_are_copied_while_conditional_commands_wait() {
    let mut lab = pair();
    lab.catch_up(T, &[]);
    lab.set_phase(T, Phase::Flipping);
    lab.set(S, "a", "1");
    lab.recopy(T, &["a"]);
    lab.pass_ms(500);
    assert!(lab.has_said(NOT_BUSY));
    lab.assert_equal(T, S);
}

#[test]
fn a_key_that_is_asked_for_during_its_copy_is_copied_again() {
    let mut lab = pair_with_single("a");
    lab.set(S, "a", "1");
    // The copy is over but for the healer's knowledge of it.
    lab.until_executed(S, "mg a k t");
    lab.ask(T, "delete a\r\n");
    lab.recopy(T, &["a"]);
    lab.pass_ms(500);
    assert!(lab.has_said(NOT_BUSY));
    lab.assert_equal(T, S);
    assert_eq!(lab.told(T, "ms a"), 2);
}

#[test]
fn too_many_single_keys_make_the_shares_lacking() {
    let mut lab = Lab::with(1, 1, |config| config.limits.heal_keys_max = 10);
    for number in 0..20 {
        lab.set(S, &format!("k{number}"), "v");
    }
    let keys: Vec<String> = (0..11).map(|number| format!("k{number}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    lab.fail(T, &[]);
    lab.recopy(T, &keys);
    let lacks = Report::Lacks {
        target: T,
        source: None,
    };
    assert!(lab.has_said(lacks));
    lab.catch_up(T, &[S]);
    lab.pass_ms(5_000);
    assert!(lab.has_said(lab.copied(T, S)));
    lab.assert_equal(T, S);
}

#[test]
fn single_keys_that_are_dropped_behind_a_walk_make_it_begin_again() {
    let mut lab = Lab::with(1, 1, |config| config.limits.heal_keys_max = 10);
    for number in 0..5 {
        lab.set(S, &format!("k{number}"), "v");
    }
    lab.catch_up(T, &[S]);
    lab.until_executed(S, "mg k4 k t");
    // A worker has deleted copies of items that were already copied, and more.
    let keys: Vec<String> = (0..11).map(|number| format!("k{number}")).collect();
    for key in &keys {
        lab.ask(T, format!("delete {key}\r\n"));
    }
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    lab.recopy(T, &keys);
    lab.pass_ms(5_000);
    assert!(lab.has_said(lab.copied(T, S)));
    lab.assert_equal(T, S);
    assert_eq!(lab.told(S, "lru_crawler"), 2);
}

#[test]
fn keys_whose_authority_is_gone_are_lacking() {
    let mut lab = Lab::new(1, 2);
    let (target, gone, there) = (id(0), id(1), id(2));
    let keys = [0, 1, 2].map(|number| lab.key(number, target, gone));
    let other = lab.key(0, target, there);
    lab.set(there, &other, "v");
    lab.fail(gone, &[]);
    lab.fail(target, &[]);
    lab.set_phase(target, Phase::Purging);
    lab.recopy(target, &[&keys[0], &keys[1], &keys[2], &other]);
    lab.catch_up(target, &[]);
    lab.pass_ms(500);
    let lacks = Report::Lacks {
        target,
        source: Some(gone),
    };
    assert!(lab.has_said(lacks));
    assert!(!lab.has_said(lacks), "once for all keys");
    assert!(lab.reports.contains(&NOT_BUSY));
    lab.assert_equal(target, there);
}
