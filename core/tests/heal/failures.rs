//! Sources and targets that fail in the middle.

use magent_core::keeper::{Failure, Report};
use magent_core::placement::Phase;

use super::lab::{Lab, id};
use super::{BUSY, NOT_BUSY, S, T, failed, pair, pair_with_single};

#[test]
fn a_source_that_fails_leaves_no_copy_that_was_not_looked_at_again() {
    // When it fails, and whether the copy stays.
    for (backend, at, stays) in [
        (S, "mg a k f", false),
        (T, "ms a", false),
        (S, "mg a k t", false),
    ] {
        let mut lab = pair();
        lab.set(S, "a", "1");
        lab.catch_up(T, &[S]);
        lab.until_executed(backend, at);
        lab.settles = false;
        lab.nodes[T.index()].stopped = true;
        lab.kill(S);
        lab.fail(S, &[T]);
        lab.settle_down();
        let epoch = lab.view.epoch;
        let acknowledged = Report::Acknowledged { epoch };
        let dirty = at != "mg a k f";
        assert_eq!(lab.has_said(acknowledged), !dirty, "{at}");
        lab.nodes[T.index()].stopped = false;
        lab.settle_down();
        assert_eq!(lab.has_said(acknowledged), dirty, "{at}");
        assert_eq!(lab.value(T, "a").is_some(), stays, "{at}");
    }
}

#[test]
fn a_copy_that_was_looked_at_again_stays_when_its_source_fails() {
    let mut lab = pair();
    lab.set(S, "a", "1");
    lab.catch_up(T, &[S]);
    lab.pass_ms(500);
    lab.kill(S);
    lab.fail(S, &[T]);
    lab.settle_down();
    let epoch = lab.view.epoch;
    assert!(lab.has_said(Report::Acknowledged { epoch }));
    assert_eq!(lab.value(T, "a").as_deref(), Some("1"));
}

#[test]
fn another_source_goes_on_when_one_has_failed() {
    let mut lab = Lab::new(1, 2);
    let (target, failing, other) = (id(0), id(1), id(2));
    for number in 0..300 {
        lab.set(failing, &format!("k{number}"), "v");
        lab.set(other, &format!("k{number}"), "v");
    }
    lab.catch_up(target, &[failing, other]);
    for _ in 0..40 {
        lab.step(0);
    }
    lab.kill(failing);
    lab.fail(failing, &[target]);
    lab.settle_down();
    let epoch = lab.view.epoch;
    assert!(lab.has_said(Report::Acknowledged { epoch }));
    lab.catch_up(target, &[other]);
    lab.pass_ms(2_000);
    assert!(lab.has_said(lab.copied(target, other)));
    lab.assert_equal(target, other);
    assert!(!lab.reports.contains(&lab.copied(target, failing)));
}

#[test]
fn a_target_that_fails_is_purged_of_what_was_not_looked_at_again() {
    for (backend, at) in [(T, "ms a"), (S, "mg a k t")] {
        let mut lab = pair_with_single("a");
        lab.set(S, "a", "old");
        lab.until_executed(backend, at);
        lab.cut(T);
        lab.settle_down();
        let failure = failed(&lab, T, Failure::Reset);
        assert!(lab.has_said(failure), "{at}");
        lab.fail(T, &[]);
        // It missed this, and whoever wrote it knows. The copy is the healer's business.
        lab.set(S, "a", "new");
        lab.pass_ms(500);
        assert_eq!(lab.value(T, "a").as_deref(), Some("old"));
        lab.set_phase(T, Phase::Purging);
        lab.settle_down();
        let purged = Report::Purged {
            backend: T,
            incarnation: 1,
        };
        assert!(lab.has_said(purged), "{at}");
        assert_eq!(lab.value(T, "a"), None);
        assert!(!lab.reports.contains(&NOT_BUSY));
        lab.catch_up(T, &[]);
        lab.pass_ms(500);
        assert!(lab.has_said(NOT_BUSY));
        lab.assert_equal(T, S);
    }
}

#[test]
fn a_purge_that_fails_is_done_again() {
    let mut lab = pair_with_single("a");
    lab.set(S, "a", "old");
    lab.until_executed(T, "ms a");
    for _ in 0..3 {
        lab.cut(T);
        lab.settle_down();
        lab.fail(T, &[]);
        lab.nodes[T.index()].stopped = true;
        lab.set_phase(T, Phase::Purging);
        lab.settle_down();
        lab.nodes[T.index()].stopped = false;
    }
    assert_eq!(lab.value(T, "a").as_deref(), Some("old"));
    lab.settle_down();
    assert!(lab.has_said(Report::Purged {
        backend: T,
        incarnation: 3,
    }));
    assert_eq!(lab.value(T, "a"), None);
}

#[test]
fn a_return_without_copies_is_purged_at_once() {
    let mut lab = pair();
    lab.fail(T, &[]);
    lab.set_phase(T, Phase::Purging);
    let purged = Report::Purged {
        backend: T,
        incarnation: 1,
    };
    assert!(lab.has_said(purged));
    assert_eq!(lab.open_connections(), 0);
}

#[test]
fn everything_is_copied_after_a_target_failed_in_the_middle() {
    let mut lab = pair();
    for number in 0..300 {
        lab.set(S, &format!("k{number}"), "v");
    }
    lab.catch_up(T, &[S]);
    for steps in [1, 30, 100, 200] {
        for _ in 0..steps {
            lab.step(0);
        }
        lab.cut(T);
        lab.settle_down();
        lab.fail(T, &[]);
        lab.pass_ms(500);
        lab.set_phase(T, Phase::Purging);
        lab.pass_ms(500);
        lab.catch_up(T, &[S]);
    }
    lab.pass_ms(5_000);
    assert!(lab.has_said(lab.copied(T, S)));
    assert!(lab.has_said(NOT_BUSY) || !lab.reports.contains(&BUSY));
    lab.assert_equal(T, S);
}

#[test]
fn a_silent_backend_has_failed() {
    let mut lab = pair_with_single("a");
    lab.set(S, "a", "1");
    lab.nodes[S.index()].stopped = true;
    lab.pass_ms(400);
    let failure = failed(&lab, S, Failure::Silent);
    assert!(!lab.has_said(failure));
    lab.pass_ms(200);
    assert!(lab.has_said(failure));
    assert_eq!(lab.open_connections(), 1, "that of the target");
}

#[test]
fn a_refused_connection_is_a_failure() {
    let mut lab = pair();
    lab.nodes[S.index()].dead = true;
    lab.catch_up(T, &[S]);
    lab.settle_down();
    let failure = failed(&lab, S, Failure::Refused);
    assert!(lab.has_said(failure));
    lab.pass_ms(5_000);
    assert!(!lab.has_said(failure), "the keeper has been told");
}

#[test]
fn a_connection_that_owes_nothing_is_opened_again() {
    let mut lab = pair_with_single("a");
    lab.set(S, "a", "1");
    lab.pass_ms(500);
    assert!(lab.has_said(NOT_BUSY));
    lab.cut(S);
    lab.cut(T);
    lab.settle_down();
    lab.set(S, "b", "2");
    lab.recopy(T, &["b"]);
    lab.pass_ms(500);
    lab.assert_equal(T, S);
    assert!(
        !lab.reports
            .iter()
            .any(|said| matches!(said, Report::Failed { .. }))
    );
}

#[test]
fn an_answer_out_of_step_is_a_failure() {
    let mut lab = pair_with_single("a");
    lab.set(S, "a", "1");
    lab.until_executed(S, "mg a k f");
    lab.forge_answer(S, b"VA 1 kb f0 t-1 c1\r\n2\r\n");
    lab.settle_down();
    let failure = failed(&lab, S, Failure::Desync);
    assert!(lab.has_said(failure));
    assert_eq!(lab.value(T, "a"), None);
}

#[test]
fn answers_may_come_in_pieces() {
    let mut lab = pair();
    lab.answer_len = 1;
    for number in 0..50 {
        lab.ask(S, format!("set k{number} 3 {number} 5\r\na\r\nbc\r\n"));
    }
    lab.catch_up(T, &[S]);
    lab.pass_ms(1_500);
    assert!(lab.has_said(lab.copied(T, S)));
    lab.assert_equal(T, S);
}

#[test]
fn no_time_passes_for_a_backend_while_the_healer_stands_still() {
    let mut lab = pair_with_single("a");
    lab.set(S, "a", "1");
    lab.nodes[S.index()].stopped = true;
    lab.pass_ms(400);
    lab.stall_ms(60_000);
    lab.pass_ms(90);
    let failed = failed(&lab, S, Failure::Silent);
    assert!(!lab.reports.contains(&failed));
    lab.pass_ms(20);
    assert!(lab.reports.contains(&failed));
}
