//! `docs/failover.md`, cell by cell: its tables are the expectations of these tests.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "failover/case.rs"]
mod case;
mod rig;
#[path = "failover/table.rs"]
mod table;

use magent_core::placement::Phase;

use case::{Case, Command, Failing, Hears, Variant, bytes};
use rig::Rig;
use table::{Row, Table};

const DOCUMENT: &str = include_str!("../../docs/failover.md");
const CLASSES: [&str; 7] = ["read", "win", "set", "decide", "flush", "stats", "own"];

/// All commands with their class.
fn commands() -> Vec<(String, Command)> {
    let table = Table::of(DOCUMENT, "commands");
    let commands = table.rows().map(|row| {
        let sends = bytes(row.cell("client sends"));
        let or_sends = |cell: &str| match cell {
            "=" => sends.clone(),
            cell => bytes(cell),
        };
        let command = Command {
            asked: or_sends(row.cell("asked")),
            told: or_sends(row.cell("told")),
            told_behind: match row.cell("told behind") {
                "=" | "–" => None,
                cell => Some(bytes(cell)),
            },
            says: bytes(row.cell("says")),
            other_says: bytes(row.cell("the other says")),
            hears: match row.cell("hears") {
                "=" => Hears::Answer,
                "the sum" => Hears::Sum,
                cell => Hears::This(bytes(cell)),
            },
            if_nobody: bytes(row.cell("if nobody")),
            sends,
        };
        (row.cell("class").to_owned(), command)
    });
    commands.collect()
}

/// What a cell says about each of its class's commands, in every variant.
fn check_row(
    row: Row<'_>,
    classes: &[&str],
    failing: &[Failing],
    is_meant: impl Fn(&Command) -> bool,
) -> usize {
    let mut played = 0;
    for (class, command) in commands() {
        if !classes.contains(&class.as_str()) || !is_meant(&command) {
            continue;
        }
        let (state, way, cell) = (row.cell("state"), row.cell("way there"), row.cell(&class));
        for (reversed, &failing) in [false, true]
            .iter()
            .flat_map(|reversed| failing.iter().map(move |failing| (*reversed, failing)))
        {
            let variant = Variant { reversed, failing };
            let keys = command.sends.replace(case::KEYS[1], "L");
            let what = format!("{state} ({way}) | {keys:?} | {cell} | {variant:?}");
            let mut case = Case::new(state, way, what);
            case.play(&command, cell, variant);
            case.finish();
            played += 1;
        }
    }
    played
}

#[test]
fn every_command_in_every_state() {
    let table = Table::of(DOCUMENT, "states");
    assert_eq!(table.columns()[2..], CLASSES);
    let played: usize = table
        .rows()
        .map(|row| check_row(row, &CLASSES, &[Failing::Reset], |_| true))
        .sum();
    assert!(played > 2_000, "only {played} cells were found");
}

#[test]
fn a_backend_fails_while_a_request_is_under_way() {
    let table = Table::of(DOCUMENT, "failures");
    let classes = &CLASSES[..6];
    assert_eq!(table.columns()[3..], *classes);
    let failing = [Failing::Reset, Failing::Desync, Failing::Silent];
    let once = Table::of(DOCUMENT, "once");
    let place =
        |row: &Row<'_>| ["state", "way there", "fails"].map(|column| row.cell(column).to_owned());
    let is_done_once = |command: &Command| command.told_behind.is_some();
    let places: Vec<_> = once.rows().map(|row| place(&row)).collect();
    for row in table.rows() {
        let has_other_row = places.contains(&place(&row));
        check_row(row, classes, &failing, |command| {
            !(has_other_row && is_done_once(command))
        });
    }
    for row in once.rows() {
        assert!(check_row(row, &["decide"], &failing, is_done_once) > 0);
    }
}

/// The cell that the table of states has for a command.
fn cell_of(state: &str, class: &str) -> String {
    let table = Table::of(DOCUMENT, "states");
    let row = table.rows().find(|row| row.cell("state") == state);
    row.expect("the state is in the table")
        .cell(class)
        .to_owned()
}

/// Who is asked, and who is told of the outcome.
fn pair(who: &str) -> (&str, &str) {
    let pair = who.split_once(" → ").or_else(|| who.split_once(" ⇢ "));
    pair.unwrap_or((who, ""))
}

fn command_of(sends: &str) -> (String, Command) {
    let sends = bytes(sends);
    let mut commands = commands().into_iter();
    commands
        .find(|(_, command)| command.sends == sends)
        .expect("the command is in the table")
}

#[test]
fn the_two_answers_differ() {
    for row in Table::of(DOCUMENT, "answers").rows() {
        let (class, command) = command_of(row.cell("command"));
        let (state, way) = (row.cell("state"), row.cell("way there"));
        let (says, other_says) = (bytes(row.cell("says")), row.cell("the other says"));
        let what = format!("{state} | {:?} | {says:?}, {other_says:?}", command.sends);
        let cell = cell_of(state, &class);
        let mut case = Case::new(state, way, what.clone());
        case.send(&command.sends);
        let index = |name: &str| usize::from(name == "b");
        let who = cell.split(", ").next().unwrap();
        if let Some((first, second)) = who.split_once('+') {
            case.expect_sent(who, &command.asked);
            case.say(index(second), &bytes(other_says));
            case.hears_nothing();
            case.say(index(first), &says);
        } else {
            let (first, second) = pair(who);
            let told = match &command.told_behind {
                Some(line) if who.contains('⇢') => line,
                _ => &command.told,
            };
            case.expect_sent(first, &command.asked);
            case.say(index(first), &says);
            if other_says != "not told" {
                case.expect_sent(second, told);
                case.say(index(second), &bytes(other_says));
            }
        }
        let deleted_on = row.cell("deleted on");
        if deleted_on != "–" {
            case.expect_sent(deleted_on, &bytes("delete K"));
            for name in deleted_on.split('+') {
                case.hears_nothing();
                case.say(index(name), "DELETED\r\n");
            }
        }
        assert_eq!(case.heard(), bytes(row.cell("hears")), "{what}");
        for backend in 0..2 {
            assert_eq!(case.rig.sent(backend), "", "{what}");
        }
    }
}

#[test]
fn a_second_request_for_the_key() {
    for row in Table::of(DOCUMENT, "orders").rows() {
        for second in ["read", "set", "decide"] {
            check_order(row, second);
        }
    }
}

fn check_order(row: Row<'_>, second: &str) {
    let (state, way) = (row.cell("state"), row.cell("way there"));
    let (class, command) = command_of(row.cell("first"));
    let cell = cell_of(state, &class);
    let how_far = row.cell("how far");
    let what = format!("{state} | {cell} | {how_far} | {second}");
    let mut case = Case::new(state, way, what.clone());
    case.send(&command.sends);
    let who = cell.split(", ").find(|token| *token != "waits").unwrap();
    let (first, told) = pair(who);
    let leader = usize::from(first.starts_with('b'));
    if how_far != "not sent" {
        case.expect_sent(first, &command.asked);
    }
    if how_far == "told" {
        case.say(leader, &command.says);
        case.expect_sent(told, &command.told);
    }
    let (second_sends, line) = match second {
        "read" => (bytes("get K"), bytes("get K")),
        "set" => (bytes("set K 0 0 1↵y"), bytes("set K 0 0 1↵y")),
        _ => (bytes("append K 0 0 1↵y"), bytes("append K 0 0 1↵y")),
    };
    let client = case.rig.client();
    case.rig.send(client, second_sends.as_bytes());
    let expected = match row.cell(second) {
        "at once" => line.clone(),
        "waits" | "behind it" => String::new(),
        other => panic!("no sign {other:?}"),
    };
    assert_eq!(case.rig.sent(leader), expected, "{what}");
    if expected.is_empty() {
        // It is sent when the first one is over, and not a moment before.
        let mut seen = String::new();
        if how_far == "not sent" {
            case.rig.second_worker_acknowledges();
            let behind = if row.cell(second) == "behind it" {
                line.as_str()
            } else {
                ""
            };
            assert_eq!(
                case.rig.sent(leader),
                command.asked.clone() + behind,
                "{what}"
            );
            if !behind.is_empty() {
                return;
            }
        }
        if how_far != "told" {
            case.say(leader, &command.says);
            if first.contains('+') {
                assert_eq!(case.rig.sent(leader), "", "{what}");
                case.say(1 - leader, &command.other_says);
            }
            if !told.is_empty() {
                assert_eq!(case.rig.sent(leader), "", "{what}");
                case.expect_sent(told, &command.told);
            }
        }
        if !told.is_empty() {
            case.say(1 - leader, &command.other_says);
        }
        seen.push_str(&case.rig.sent(leader));
        assert_eq!(seen, line, "{what}");
    }
}

#[test]
fn the_document_shows_every_class() {
    let classes: Vec<String> = commands().into_iter().map(|(class, _)| class).collect();
    for class in CLASSES {
        assert!(classes.iter().any(|known| known == class), "{class}");
    }
    assert!(
        classes
            .iter()
            .all(|class| CLASSES.contains(&class.as_str()))
    );
}

#[test]
fn the_log_says_what_the_document_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../magent/src/changes.rs");
    let source = std::fs::read_to_string(path).unwrap();
    for row in Table::of(DOCUMENT, "phases").rows() {
        let line = format!("\"{}\"", row.cell("line in the log"));
        assert!(source.contains(&line), "{line}");
        let phase = format!("Phase::{}", row.cell("phase"));
        let before = &source[..source.find(&line).unwrap()];
        let arm = &before[before.rfind("Phase::").unwrap()..];
        assert!(arm.starts_with(&phase), "{line} is said of {phase}");
    }
}

#[test]
fn a_backend_is_not_purged_before_all_know_that_it_was_down() {
    let what = "p fails, and is back before all know".to_owned();
    let mut case = Case::new("p has just failed", "p fails", what);
    case.send(&bytes("set K 1 0 1↵x"));
    case.expect_sent("b", &bytes("set K 1 0 1↵x"));
    case.say(1, "STORED\r\n");
    case.rig.peers[0].alive = true;
    case.rig.pass_ms(1_000);
    // Another worker may still write to it, behind a purge and with nobody to remember it.
    assert_eq!(case.rig.phase(0), Phase::Down);
    case.expect_sent("", "");
    case.rig.second_worker_acknowledges();
    assert_eq!(case.rig.phase(0), Phase::Purging);
    assert_eq!(case.rig.sent(0), bytes("delete K"));
    assert_eq!(case.heard(), "STORED\r\n");
}

#[test]
fn each_key_of_a_get_goes_its_own_way() {
    let mut rig = Rig::with_nodes(3, 2).with_keeper();
    let client = rig.client();
    let keys = [(0, 3), (0, 4), (1, 4)].map(|(p, b)| rig.key(p, Some(b)));
    let [lost, detour, hit] = &keys;
    for key in &keys {
        rig.send(client, format!("set {key} 0 0 1\r\nx\r\n").as_bytes());
    }
    for backend in [0, 3] {
        rig.peers[backend].stopped = true;
        rig.send(client, b"stats settings\r\n");
        rig.kill(backend);
    }
    rig.got(client);
    let value = |key: &str| format!("VALUE {key} 0 1\r\nx\r\n");
    let line = format!("get {lost} {detour} {hit} {lost}\r\n");
    rig.send(client, line.as_bytes());
    let found = value(detour) + &value(hit) + "END\r\n";
    assert_eq!(rig.got(client), found, "what is lost is a miss");
    // The third key's primary dies with the request unanswered.
    rig.peers[1].stopped = true;
    rig.send(client, line.as_bytes());
    assert_eq!(rig.got(client), "", "values of one get leave together");
    rig.kill(1);
    assert_eq!(rig.got(client), found);
}

#[test]
fn more_keys_than_are_remembered_are_made_up_for_by_a_flush_but_only_with_backups() {
    for backups in [1, 0] {
        let mut rig = Rig::with_limits(1, backups, |limits| limits.remembered_keys_max = 1);
        rig = rig.with_keeper();
        let client = rig.client();
        rig.send(client, b"set a 0 0 1\r\nx\r\nset b 0 0 1\r\nx\r\n");
        rig.sent(0);
        rig.kill(0);
        if backups > 0 {
            rig.answer(1, b"STORED\r\nSTORED\r\n");
            assert_eq!(rig.got(client), "STORED\r\nSTORED\r\n");
        } else {
            assert!(rig.got(client).starts_with("SERVER_ERROR "));
        }
        rig.peers[0].alive = true;
        rig.pass_ms(300);
        let expected = if backups > 0 { "flush_all\r\n" } else { "" };
        assert_eq!(rig.sent(0), expected, "{backups} backups");
    }
}
