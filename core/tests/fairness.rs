//! A client that wants much takes no more than its share of a turn, of a batch and of the memory.
//!
//! Work is counted, never timed: what one client costs the others is bounded by construction.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod rig;

use magent_core::engine::{ClientId, Input, Output};
use magent_core::stats::Counter;
use rig::Rig;

/// The default of `requests_per_turn_max`.
const PER_TURN: u64 = 128;

/// A client whose answers are known to be small: of one that is new, only a few requests may be under way.
fn known_client(rig: &mut Rig) -> ClientId {
    let client = rig.client();
    rig.send(client, &b"mn\r\n".repeat(200));
    assert_eq!(rig.got(client), "MN\r\n".repeat(200));
    client
}

/// The same, and the backend is connected.
fn connected_client(rig: &mut Rig) -> ClientId {
    let client = known_client(rig);
    rig.send(client, b"get first\r\n");
    assert_eq!(rig.got(client), "END\r\n");
    client
}

/// Goes on with what [`end_turn`] has left undone.
fn go_on(rig: &mut Rig) {
    let other = rig.client();
    rig.send(other, b"get other\r\n");
}

/// Ends the turn; what is to be done outside is left undone.
fn end_turn(rig: &mut Rig) {
    rig.engine.handle(rig.now, Input::TurnEnd);
    while !matches!(rig.engine.poll(rig.now), Output::Wait(_)) {}
}

/// Feeds `bytes` and counts what is begun at once, and in each of the next turns.
fn begun_per_turn(rig: &mut Rig, client: ClientId, bytes: &[u8], counter: Counter) -> Vec<u64> {
    let mut begun = vec![rig.count(counter)];
    rig.feed(client, bytes);
    begun.push(rig.count(counter));
    for _ in 0..5 {
        end_turn(rig);
        begun.push(rig.count(counter));
    }
    begun.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

/// The backend has none of what it is asked for; yields what that was.
fn miss_everything(rig: &mut Rig) -> String {
    let mut sent = rig.sent(0);
    let mut answered = 0;
    while answered < sent.lines().count() {
        rig.answer(0, b"END\r\n");
        answered += 1;
        sent.push_str(&rig.sent(0));
    }
    sent
}

fn gets(count: usize) -> Vec<u8> {
    (0..count)
        .flat_map(|n| format!("get g{n}\r\n").into_bytes())
        .collect()
}

#[test]
fn a_pipeline_has_its_share_of_each_turn() {
    let mut rig = Rig::with_nodes(1, 0);
    let client = connected_client(&mut rig);
    let begun = begun_per_turn(&mut rig, client, &gets(10_000), Counter::Gets);
    assert_eq!(begun[..5], [PER_TURN; 5]);
    go_on(&mut rig);
    assert_eq!(rig.got(client), "END\r\n".repeat(10_000));
}

#[test]
fn commands_that_need_no_backend_have_their_share_too() {
    let mut rig = Rig::with_nodes(1, 0);
    let client = rig.client();
    let begun = begun_per_turn(&mut rig, client, &b"mn\r\n".repeat(10_000), Counter::Others);
    assert_eq!(begun, [PER_TURN; 6]);
    rig.run();
    assert_eq!(rig.got(client), "MN\r\n".repeat(10_000));
    // So have those that are not even commands.
    let begun = begun_per_turn(
        &mut rig,
        client,
        &b"x\r\n".repeat(10_000),
        Counter::ProtocolErrors,
    );
    assert_eq!(begun, [PER_TURN; 6]);
    rig.run();
    assert_eq!(rig.got(client), "ERROR\r\n".repeat(10_000));
}

#[test]
fn a_multiget_has_its_share_of_each_turn() {
    let mut rig = Rig::with_nodes(1, 0);
    let client = connected_client(&mut rig);
    let keys: String = (0..100_000).map(|n| format!(" g{n}")).collect();
    let line = format!("get{keys}\r\nmn\r\n");
    let begun = begun_per_turn(&mut rig, client, line.as_bytes(), Counter::Gets);
    assert!(begun.iter().all(|&begun| begun <= PER_TURN), "{begun:?}");
    go_on(&mut rig);
    assert_eq!(rig.got(client), "END\r\nMN\r\n");
    assert!(rig.count(Counter::Gets) >= 100_000);
}

/// A page of PHP connects, asks for fifty items at once and leaves: it is not to wait for the first few of them.
#[test]
fn how_much_a_new_client_may_ask_at_once_depends_on_what_others_get() {
    let mut rig = Rig::new(1, 0);
    let keys: String = (0..200).map(|n| format!(" g{n}")).collect();
    let line = format!("get{keys}\r\n");
    let asked_by_a_new_client = |rig: &mut Rig| {
        let client = rig.client();
        let before = rig.count(Counter::Gets);
        rig.feed(client, line.as_bytes());
        let begun = rig.count(Counter::Gets) - before;
        rig.run();
        miss_everything(rig);
        rig.got(client);
        begun
    };
    assert_eq!(asked_by_a_new_client(&mut rig), 16, "nothing is known");
    known_client(&mut rig);
    let many = asked_by_a_new_client(&mut rig);
    assert!((100..=PER_TURN).contains(&many), "{many}");
    let reader = known_client(&mut rig);
    let value = "x".repeat(20_000);
    for _ in 0..50 {
        rig.send(reader, b"get large\r\n");
        rig.sent(0);
        rig.answer(
            0,
            format!("VALUE large 0 20000\r\n{value}\r\nEND\r\n").as_bytes(),
        );
        rig.got(reader);
    }
    let few = asked_by_a_new_client(&mut rig);
    assert!((16..40).contains(&few), "{few}");
}

#[test]
fn who_ends_after_a_long_pipeline_is_answered_completely() {
    let mut rig = Rig::with_nodes(1, 0);
    let client = rig.client();
    rig.feed(client, &gets(1_000));
    rig.engine.handle(rig.now, Input::ClientEnd(client));
    rig.run();
    assert_eq!(rig.got(client), "END\r\n".repeat(1_000));
    assert_eq!(rig.closed, [client]);
}

#[test]
fn a_small_get_leaves_before_what_a_greedy_client_waits_for() {
    let mut rig = Rig::new(1, 0);
    let (greedy, small) = (known_client(&mut rig), rig.client());
    rig.send(greedy, &gets(1_000));
    let in_flight = rig.sent(0);
    assert_eq!(in_flight.lines().count(), 4, "batches in flight");
    rig.send(small, b"get small\r\n");
    assert_eq!(rig.sent(0), "");
    rig.answer(0, b"END\r\n");
    let next = rig.sent(0);
    let keys: Vec<&str> = next.split_whitespace().collect();
    let place = keys.iter().position(|key| *key == "small");
    assert!(place.is_some_and(|place| place <= 4), "{place:?} in {next}");
    rig.answer(0, &b"END\r\n".repeat(3));
    rig.answer(0, b"VALUE small 0 1\r\nx\r\nEND\r\n");
    assert_eq!(rig.got(small), "VALUE small 0 1\r\nx\r\nEND\r\n");
}

#[test]
fn keys_of_one_client_leave_in_the_order_of_its_requests() {
    let mut rig = Rig::new(1, 0);
    let (greedy, other) = (known_client(&mut rig), known_client(&mut rig));
    rig.send(other, &gets(400));
    for number in 0..50 {
        let small = rig.client();
        rig.feed(small, format!("get s{number}\r\n").as_bytes());
    }
    let line: String = (0..1_000).map(|n| format!("get h{n}\r\n")).collect();
    rig.send(greedy, line.as_bytes());
    let sent = miss_everything(&mut rig);
    let of_greedy = sent
        .split_whitespace()
        .filter_map(|key| key.strip_prefix('h'));
    let numbers: Vec<u32> = of_greedy.map(|number| number.parse().unwrap()).collect();
    assert!(numbers.len() > 500 && numbers.is_sorted(), "{numbers:?}");
}

#[test]
fn what_nobody_waits_for_any_more_is_not_asked() {
    let mut rig = Rig::with_limits(1, 0, |limits| {
        limits.request_ms = 100;
        limits.fail_ms = 10_000;
    });
    let client = known_client(&mut rig);
    rig.send(client, &gets(1_000));
    assert_eq!(rig.sent(0).lines().count(), 4);
    // Their time is up before the backend answers.
    rig.pass_ms(200);
    assert_eq!(rig.got(client).lines().count(), 1_000);
    rig.answer(0, b"END\r\n");
    assert_eq!(rig.sent(0), "");
    rig.send(client, b"get later\r\n");
    assert_eq!(rig.sent(0), "get later\r\n");
}

#[test]
fn what_cannot_be_asked_soon_waits_in_its_socket() {
    const UNDER_WAY_MAX: u64 = 2_000;
    let mut rig = Rig::with_limits(1, 0, |limits| limits.requests_under_way_max = UNDER_WAY_MAX);
    let clients: Vec<ClientId> = (0..50).map(|_| known_client(&mut rig)).collect();
    let known = rig.count(Counter::Gets);
    for client in &clients {
        rig.send(*client, &gets(1_000));
    }
    let begun = rig.count(Counter::Gets) - known;
    let everybody = clients.len() as u64;
    assert!(
        (UNDER_WAY_MAX..=UNDER_WAY_MAX + everybody).contains(&begun),
        "{begun}"
    );
    let waiting = clients
        .iter()
        .filter(|&&client| !rig.engine.wants_client_data(client));
    assert!(waiting.count() >= clients.len() - 2, "two fit in whole");
    miss_everything(&mut rig);
    for client in clients {
        assert_eq!(rig.got(client).lines().count(), 1_000);
    }
}

#[test]
fn requests_under_way_are_part_of_the_memory() {
    const MEMORY: u64 = 16 << 20;
    let mut rig = Rig::with_limits(1, 0, |limits| limits.memory_max = MEMORY);
    let clients: Vec<ClientId> = (0..100).map(|_| known_client(&mut rig)).collect();
    for client in &clients {
        rig.send(*client, &gets(1_000));
    }
    let begun = rig.count(Counter::Gets);
    // Each takes a few hundred bytes, and a quarter is for them; nobody is kept out completely.
    assert!(begun < MEMORY / 4 / 200 + 100, "{begun} requests under way");
    miss_everything(&mut rig);
    for client in clients {
        assert_eq!(rig.got(client).lines().count(), 1_000);
    }
}
