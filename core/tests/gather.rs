//! Gathered gets: what shares a batch, when a batch leaves, and whose turn it is.
//!
//! Backend 0 has every key, unless a case says otherwise, and is scripted: a case sees each line that leaves.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "gather/answers.rs"]
mod answers;
#[path = "gather/endings.rs"]
mod endings;
#[path = "gather/held.rs"]
mod held;
mod rig;

use magent_core::engine::ClientId;
use magent_core::stats::Counter;
use rig::Rig;

/// One client for each key; all of them ask in one turn, so one batch leaves.
#[track_caller]
fn ask_together(rig: &mut Rig, keys: &[&str]) -> Vec<ClientId> {
    let clients: Vec<_> = keys.iter().map(|key| asks(rig, key)).collect();
    rig.run();
    assert_eq!(rig.sent(0), format!("get {}\r\n", keys.join(" ")));
    clients
}

/// A new client asks for a key; the turn goes on.
fn asks(rig: &mut Rig, key: &str) -> ClientId {
    let client = rig.client();
    rig.feed(client, format!("get {key}\r\n").as_bytes());
    client
}

fn value(key: &str, value: &str) -> String {
    format!("VALUE {key} 0 {}\r\n{value}\r\n", value.len())
}

/// The answer to a get of one key.
fn hit(key: &str, of: &str) -> String {
    value(key, of) + "END\r\n"
}

const MISS: &str = "END\r\n";

/// The clients have nothing more to hear, and when they are gone the engine holds nothing.
#[track_caller]
fn assert_nothing_left(mut rig: Rig, clients: &[ClientId]) {
    for &client in clients {
        assert_eq!(rig.got(client), "");
        rig.lose_client(client);
    }
    rig.assert_nothing_left();
}

/// What is no get leaves behind the answer in flight after so long, while the worker is busy.
const HELD_US: u64 = 250;

// -- Writes --

/// Every request that concerns a key leaves behind the gets of it that came before, and before those that came
/// behind it.
#[test]
fn a_write_closes_the_batch_that_holds_its_key() {
    for (write, answer) in [
        ("set k 0 0 1\r\n2\r\n", "STORED\r\n"),
        ("add k 0 0 1\r\n2\r\n", "NOT_STORED\r\n"),
        ("delete k\r\n", "DELETED\r\n"),
        ("incr k 1\r\n", "2\r\n"),
        ("touch k 100\r\n", "TOUCHED\r\n"),
        ("ms k 1\r\n2\r\n", "HD\r\n"),
        ("md k\r\n", "HD\r\n"),
        ("flush_all\r\n", "OK\r\n"),
    ] {
        let mut rig = Rig::that_holds(1, 0);
        let other = ask_together(&mut rig, &["busy"])[0];
        // The first batch is in flight, so these gather.
        let early = [asks(&mut rig, "k"), asks(&mut rig, "x")];
        let cas = rig.client();
        rig.feed(cas, b"gets k\r\n");
        let writer = rig.client();
        rig.feed(writer, write.as_bytes());
        let late = asks(&mut rig, "k");
        rig.run();
        rig.pass_us(HELD_US);
        assert_eq!(rig.sent(0), format!("get k x\r\ngets k\r\n{write}"));
        let first = [
            MISS,
            &hit("k", "1"),
            "VALUE k 0 1 7\r\n1\r\nEND\r\n",
            answer,
        ]
        .concat();
        rig.answer(0, first.as_bytes());
        assert_eq!(rig.sent(0), "get k\r\n", "{write}");
        rig.answer(0, hit("k", "2").as_bytes());
        assert_eq!(rig.got(other), MISS);
        assert_eq!(rig.got(early[0]), hit("k", "1"), "{write}");
        assert_eq!(rig.got(early[1]), MISS);
        assert_eq!(rig.got(cas), "VALUE k 0 1 7\r\n1\r\nEND\r\n");
        assert_eq!(rig.got(writer), answer);
        assert_eq!(rig.got(late), hit("k", "2"), "{write}");
        assert_nothing_left(rig, &[other, early[0], early[1], cas, writer, late]);
    }
}

/// A later read may not be answered with what is older.
#[test]
fn reads_of_a_key_keep_their_order_whatever_they_are() {
    for reads in [
        ["gets k\r\n", "get k\r\n"],
        ["get k\r\n", "gets k\r\n"],
        ["get k\r\n", "mg k v\r\n"],
        ["gets k\r\n", "mg k v\r\n"],
        ["mg k v\r\n", "get k\r\n"],
    ] {
        let mut rig = Rig::that_holds(1, 0);
        ask_together(&mut rig, &["busy"]);
        let client = rig.client();
        rig.feed(client, b"get x\r\n");
        rig.feed(client, reads.concat().as_bytes());
        rig.run();
        rig.pass_us(HELD_US);
        let mut sent = rig.sent(0);
        // What has not left yet leaves when this is answered.
        for _ in 0..sent.lines().count() + 1 {
            rig.answer(0, MISS.as_bytes());
            rig.pass_us(HELD_US);
            sent += &rig.sent(0);
        }
        let at = reads.map(|read| {
            let (verb, key) = read.trim_end().split_once(' ').unwrap();
            let line = |line: &str| line.starts_with(&format!("{verb} ")) && line.contains(key);
            sent.lines().position(line).unwrap()
        });
        assert!(at[0] < at[1], "{reads:?} left as {sent:?}");
    }
}

#[test]
fn get_set_get_in_one_packet_sees_old_then_new() {
    let mut rig = Rig::that_holds(1, 0);
    let client = rig.client();
    rig.send(client, b"get k\r\nset k 0 0 1\r\n2\r\nget k\r\n");
    assert_eq!(rig.sent(0), "get k\r\nset k 0 0 1\r\n2\r\n");
    rig.answer(0, (hit("k", "1") + "STORED\r\n").as_bytes());
    assert_eq!(rig.sent(0), "get k\r\n");
    rig.answer(0, hit("k", "2").as_bytes());
    let expected = hit("k", "1") + "STORED\r\n" + &hit("k", "2");
    assert_eq!(rig.got(client), expected);
    assert_nothing_left(rig, &[client]);
}

/// With a follower, too: the batch is the authority's, the write goes to both.
#[test]
fn a_write_to_two_copies_closes_the_batch_of_the_one_that_is_read() {
    let mut rig = Rig::that_holds(1, 1);
    let other = ask_together(&mut rig, &["busy"])[0];
    let reader = asks(&mut rig, "k");
    let writer = rig.client();
    rig.send(writer, b"set k 0 0 1\r\n2\r\n");
    rig.pass_us(HELD_US);
    assert_eq!(rig.sent(0), "get k\r\nset k 0 0 1\r\n2\r\n");
    assert_eq!(rig.sent(1), "set k 0 0 1\r\n2\r\n");
    rig.answer(0, [MISS, MISS, "STORED\r\n"].concat().as_bytes());
    rig.answer(1, b"STORED\r\n");
    assert_eq!(rig.got(reader), MISS);
    assert_eq!(rig.got(writer), "STORED\r\n");
    rig.got(other);
    assert_nothing_left(rig, &[other, reader, writer]);
}

/// The answer under way could be older than a write that was acknowledged meanwhile.
#[test]
fn a_get_is_never_answered_by_a_batch_that_had_left() {
    let mut rig = Rig::that_holds(1, 0);
    let early = ask_together(&mut rig, &["k"])[0];
    let writer = rig.client();
    rig.send(writer, b"set k 0 0 1\r\n2\r\n");
    let late = asks(&mut rig, "k");
    rig.run();
    rig.pass_us(HELD_US);
    assert_eq!(rig.sent(0), "set k 0 0 1\r\n2\r\n");
    rig.answer(0, hit("k", "1").as_bytes());
    assert_eq!(rig.got(early), hit("k", "1"));
    assert_eq!(rig.got(late), "", "it has a question of its own");
    rig.pass_us(HELD_US);
    assert_eq!(rig.sent(0), "get k\r\n");
    rig.answer(0, ("STORED\r\n".to_owned() + &hit("k", "2")).as_bytes());
    assert_eq!(rig.got(writer), "STORED\r\n");
    assert_eq!(rig.got(late), hit("k", "2"));
    assert_nothing_left(rig, &[early, writer, late]);
}

#[test]
fn a_write_of_another_key_leaves_the_batch_open() {
    let mut rig = Rig::that_holds(1, 0);
    let busy = ask_together(&mut rig, &["busy"])[0];
    let first = asks(&mut rig, "a");
    let writer = rig.client();
    rig.feed(writer, b"set b 0 0 1\r\n2\r\n");
    let second = asks(&mut rig, "c");
    rig.run();
    rig.pass_us(HELD_US);
    assert_eq!(rig.sent(0), "set b 0 0 1\r\n2\r\n");
    rig.answer(0, MISS.as_bytes());
    rig.pass_us(HELD_US);
    assert_eq!(rig.sent(0), "get a c\r\n");
    rig.answer(0, format!("STORED\r\n{}", hit("c", "3")).as_bytes());
    assert_eq!(rig.got(busy), MISS);
    assert_eq!(rig.got(first), MISS);
    assert_eq!(rig.got(writer), "STORED\r\n");
    assert_eq!(rig.got(second), hit("c", "3"));
    assert_nothing_left(rig, &[busy, first, writer, second]);
}

// -- Duplicates --

#[test]
fn every_occurrence_of_a_key_is_asked_and_answered() {
    let mut rig = Rig::that_holds(1, 0);
    let [many, one, cas] = [rig.client(), rig.client(), rig.client()];
    rig.feed(many, b"get k k x k\r\n");
    rig.feed(one, b"get k\r\n");
    rig.feed(cas, b"gets k k\r\n");
    rig.run();
    let line = rig.sent(0);
    assert_eq!(line, "get k k x k k\r\n", "the gets leave when it has come");
    // What happens to the item meanwhile shows: each occurrence has its own value.
    let answer: String = (1..=4).map(|n| value("k", &n.to_string())).collect();
    rig.answer(0, (answer + "END\r\n").as_bytes());
    let [k1, k2, k3] = ["1", "2", "3"].map(|of| value("k", of));
    assert_eq!(rig.got(many), format!("{k1}{k2}{k3}END\r\n"));
    assert_eq!(rig.got(one), hit("k", "4"));
    assert_eq!(rig.sent(0), "gets k k\r\n");
    let answer = "VALUE k 0 1 8\r\n5\r\nVALUE k 0 1 8\r\n5\r\nEND\r\n";
    rig.answer(0, answer.as_bytes());
    assert_eq!(rig.got(cas), answer);
    assert_nothing_left(rig, &[many, one, cas]);
}

/// The first occurrence missed, the second was there: memcached answers one value, and it is the first's. Both are
/// answers that a lone memcached could have given in some order of the requests.
#[test]
fn of_two_occurrences_one_value_answers_one() {
    let mut rig = Rig::that_holds(1, 0);
    let clients = ask_together(&mut rig, &["k", "k"]);
    rig.answer(0, hit("k", "1").as_bytes());
    let mut got = clients.iter().map(|&client| rig.got(client));
    assert_eq!(got.next().unwrap(), hit("k", "1"));
    assert_eq!(got.next().unwrap(), MISS);
    drop(got);
    assert_nothing_left(rig, &clients);
}

#[test]
fn a_key_in_flight_and_gathering_is_asked_twice() {
    let mut rig = Rig::that_holds(1, 0);
    let early = ask_together(&mut rig, &["k", "a"]);
    let late = [asks(&mut rig, "a"), asks(&mut rig, "k")];
    rig.run();
    assert_eq!(rig.sent(0), "");
    rig.answer(
        0,
        format!("{}{}", value("k", "1"), hit("a", "1")).as_bytes(),
    );
    assert_eq!(rig.sent(0), "get a k\r\n");
    rig.answer(
        0,
        format!("{}{}", value("a", "2"), hit("k", "2")).as_bytes(),
    );
    for (client, answer) in early.iter().zip([hit("k", "1"), hit("a", "1")]) {
        assert_eq!(rig.got(*client), answer);
    }
    for (client, answer) in late.iter().zip([hit("a", "2"), hit("k", "2")]) {
        assert_eq!(rig.got(*client), answer);
    }
    assert_nothing_left(rig, &[early, late.to_vec()].concat());
}

// -- Bounds --

/// The lines of what was sent, as their numbers of keys.
fn key_counts(sent: &str) -> Vec<usize> {
    let lines = sent.lines();
    lines.map(|line| line.split(' ').count() - 1).collect()
}

#[test]
fn the_101st_key_begins_another_batch() {
    let mut rig = Rig::that_holds(1, 0);
    let clients: Vec<_> = (0..101).map(|n| asks(&mut rig, &format!("k{n}"))).collect();
    rig.run();
    let first = rig.sent(0);
    assert_eq!(key_counts(&first), [100]);
    assert!(first.starts_with("get k0 k1 ") && first.ends_with(" k99\r\n"));
    rig.answer(0, MISS.as_bytes());
    assert_eq!(rig.sent(0), "get k100\r\n");
    rig.answer(0, hit("k100", "v").as_bytes());
    for &client in &clients[..100] {
        assert_eq!(rig.got(client), MISS);
    }
    assert_eq!(rig.got(clients[100]), hit("k100", "v"));
    assert_nothing_left(rig, &clients);
}

/// 250 bytes is the longest key, and a line of more than 8 KiB is longer than a batch may be: 32 such keys fit.
#[test]
fn a_batch_of_long_keys_ends_at_8_kib() {
    let mut rig = Rig::that_holds(1, 0);
    let keys: Vec<String> = (0..70).map(|n| format!("{n:0>250}")).collect();
    let clients: Vec<_> = keys.iter().map(|key| asks(&mut rig, key)).collect();
    rig.run();
    let sent = rig.sent(0);
    assert_eq!(key_counts(&sent), [32, 32]);
    assert!(sent.lines().all(|line| line.len() <= 3 + 8_192));
    rig.answer(0, (hit(&keys[31], "v") + &hit(&keys[32], "w")).as_bytes());
    assert_eq!(key_counts(&rig.sent(0)), [6]);
    rig.answer(0, hit(&keys[69], "x").as_bytes());
    for (n, &client) in clients.iter().enumerate() {
        let expected = match n {
            31 => hit(&keys[31], "v"),
            32 => hit(&keys[32], "w"),
            69 => hit(&keys[69], "x"),
            _ => MISS.to_owned(),
        };
        assert_eq!(rig.got(client), expected, "key {n}");
    }
    assert_nothing_left(rig, &clients);
}

/// memcached 1.6.18 resets a connection with a `gat` line of 16 KiB.
#[test]
fn a_line_of_gat_stays_below_2000_bytes() {
    let mut rig = Rig::that_holds(1, 0);
    let keys: Vec<String> = (0..100).map(|n| format!("{n:0>250}")).collect();
    let client = rig.client();
    rig.send(client, format!("gat 100 {}\r\n", keys.join(" ")).as_bytes());
    let mut asked = Vec::new();
    loop {
        let sent = rig.sent(0);
        if sent.is_empty() {
            break;
        }
        assert!(sent.lines().all(|line| line.len() < 2_000));
        let lines = sent
            .lines()
            .map(|line| line.strip_prefix("gat 100 ").unwrap());
        let new: Vec<String> = lines
            .flat_map(|keys| keys.split(' '))
            .map(str::to_owned)
            .collect();
        let answers: String = new.iter().map(|key| hit(key, "v")).collect();
        asked.extend(new);
        rig.answer(0, answers.as_bytes());
    }
    assert_eq!(asked, keys);
    let values: String = keys.iter().map(|key| value(key, "v")).collect();
    assert_eq!(rig.got(client), values + "END\r\n");
    assert_nothing_left(rig, &[client]);
}

// -- When a batch leaves --

#[test]
fn with_nothing_in_flight_a_batch_leaves_when_the_turn_ends() {
    let mut rig = Rig::that_holds(1, 0);
    let warm = ask_together(&mut rig, &["a"]);
    rig.answer(0, MISS.as_bytes());
    rig.got(warm[0]);
    let [first, second] = [asks(&mut rig, "b"), asks(&mut rig, "c")];
    assert_eq!(rig.sent(0), "", "the turn goes on");
    rig.run();
    assert_eq!(rig.sent(0), "get b c\r\n");
    rig.answer(0, MISS.as_bytes());
    assert_eq!([rig.got(first), rig.got(second)], [MISS, MISS]);
    assert_nothing_left(rig, &[first, second, warm[0]]);
}

#[test]
fn a_worker_with_time_to_spare_lets_nothing_wait() {
    let mut rig = Rig::that_holds(1, 0);
    let mut clients = ask_together(&mut rig, &["a"]);
    clients.push(asks(&mut rig, "b"));
    rig.run();
    assert_eq!(rig.sent(0), "", "it waits for the answer");
    rig.waited_us(20);
    clients.push(asks(&mut rig, "c"));
    rig.run();
    assert_eq!(rig.sent(0), "get b c\r\n");
    rig.waited_us(20);
    clients.push(asks(&mut rig, "d"));
    rig.run();
    assert_eq!(rig.sent(0), "", "one beside the one in flight is enough");
    rig.pass_us(50);
    rig.answer(0, MISS.as_bytes());
    assert_eq!(rig.sent(0), "", "it has been busy since");
    rig.answer(0, MISS.as_bytes());
    assert_eq!(rig.sent(0), "get d\r\n");
    rig.answer(0, MISS.as_bytes());
    for &client in &clients {
        assert_eq!(rig.got(client), MISS);
    }
    assert_nothing_left(rig, &clients);
}

#[test]
fn behind_a_large_answer_a_batch_leaves_at_once() {
    let mut rig = Rig::that_holds(1, 0);
    let reader = ask_together(&mut rig, &["large"])[0];
    let large = "v".repeat(100_000);
    let answer = hit("large", &large);
    let small = asks(&mut rig, "small");
    rig.run();
    rig.answer(0, &answer.as_bytes()[..16_000]);
    assert_eq!(rig.sent(0), "", "it could be over soon");
    rig.answer(0, &answer.as_bytes()[16_000..17_000]);
    assert_eq!(rig.sent(0), "get small\r\n");
    rig.answer(0, &answer.as_bytes()[17_000..]);
    rig.answer(0, MISS.as_bytes());
    assert_eq!(rig.got(reader), answer);
    assert_eq!(rig.got(small), MISS);
    assert_nothing_left(rig, &[reader, small]);
}

#[test]
fn behind_a_late_answer_a_batch_leaves_after_a_millisecond() {
    let mut rig = Rig::that_holds(1, 0);
    let first = ask_together(&mut rig, &["a"])[0];
    rig.pass_us(600);
    let second = asks(&mut rig, "b");
    rig.run();
    rig.pass_us(300);
    assert_eq!(rig.sent(0), "");
    rig.pass_us(100);
    assert_eq!(rig.sent(0), "get b\r\n", "1 ms after the first had left");
    rig.answer(0, [MISS, MISS].concat().as_bytes());
    assert_eq!([rig.got(first), rig.got(second)], [MISS, MISS]);
    assert_nothing_left(rig, &[first, second]);
}

/// More would only wait in the backend, and writes behind them.
#[test]
fn at_most_four_batches_are_in_flight() {
    let mut rig = Rig::that_holds(1, 0);
    let mut clients = Vec::new();
    for n in 0..10 {
        clients.push(asks(&mut rig, &format!("k{n}")));
        rig.run();
        rig.pass_us(1_000);
    }
    assert_eq!(rig.sent(0), "get k0\r\nget k1\r\nget k2\r\nget k3\r\n");
    rig.answer(0, MISS.as_bytes());
    assert_eq!(rig.sent(0), "get k4 k5 k6 k7 k8 k9\r\n");
    rig.answer(0, MISS.repeat(4).as_bytes());
    for &client in &clients {
        assert_eq!(rig.got(client), MISS);
    }
    assert_eq!(rig.count(Counter::Batches), 5);
    assert_nothing_left(rig, &clients);
}

// -- Whose turn it is --

#[test]
fn who_does_not_read_his_value_holds_nobody_of_his_batch() {
    let mut rig = Rig::with_limits(1, 0, |limits| limits.stream_len_min = 4_096);
    let clients = ask_together(&mut rig, &["large", "a", "b"]);
    rig.pause(clients[0]);
    let large = value("large", &"v".repeat(1_000_000));
    let rest = value("a", "1") + &hit("b", "2");
    rig.answer(0, (large + &rest).as_bytes());
    assert_eq!(rig.got(clients[0]), "", "he reads nothing");
    assert_eq!(rig.got(clients[1]), hit("a", "1"));
    assert_eq!(rig.got(clients[2]), hit("b", "2"));
    let next = asks(&mut rig, "c");
    rig.run();
    assert_eq!(rig.sent(0), "get c\r\n");
    rig.answer(0, MISS.as_bytes());
    assert_eq!(rig.got(next), MISS);
    assert_nothing_left(rig, &[clients, vec![next]].concat());
}

/// A thousand keys of one client take ten batches; a get of another client goes with one of the next, not behind
/// all of them.
#[test]
fn a_single_get_does_not_wait_for_all_keys_of_a_long_one() {
    let mut rig = Rig::that_holds(1, 0);
    let greedy = rig.client();
    // The client is known for small answers: all of its keys may be under way.
    for _ in 0..100 {
        rig.send(greedy, b"get warm\r\n");
        rig.answer(0, MISS.as_bytes());
    }
    rig.got(greedy);
    rig.sent(0);
    let keys: Vec<String> = (0..1_000).map(|n| format!("k{n}")).collect();
    rig.feed(greedy, format!("get {}\r\n", keys.join(" ")).as_bytes());
    let single = asks(&mut rig, "single");
    rig.run();
    let mut lines = Vec::new();
    loop {
        let sent = rig.sent(0);
        if sent.is_empty() {
            break;
        }
        lines.extend(sent.lines().map(str::to_owned));
        rig.answer(0, MISS.repeat(sent.lines().count()).as_bytes());
    }
    let with_single = lines.iter().position(|line| line.contains(" single"));
    let before = with_single.unwrap();
    assert!(
        before <= 1,
        "{before} batches of the other client were first"
    );
    let words = lines.iter().flat_map(|line| line.split(' ').skip(1));
    let of_greedy: Vec<&str> = words.filter(|&key| key != "single").collect();
    assert_eq!(of_greedy, keys, "his own keys stay in order");
    assert_eq!(rig.got(greedy), MISS);
    assert_eq!(rig.got(single), MISS);
    assert_nothing_left(rig, &[greedy, single]);
}
