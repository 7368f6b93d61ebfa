//! Logins and rights. Expected answers are memcached 1.6.18's, started with `-Y` for text and `-S` for binary.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod packets;
mod rig;

use std::sync::Arc;

use magent_core::auth::{Access, Checked, Rights, Users};
use magent_core::config::{Advertised, AdvertisedProxy, Config};
use magent_core::engine::{ClientId, Input};
use magent_core::stats::Counter;
use packets::{Ask, bare, count, noop, shown, store, touch};
use rig::Rig;

const LOGIN: &[u8] = b"set x 0 0 10\r\njoe secret\r\n";
const WRONG: &[u8] = b"set x 0 0 9\r\njoe wrong\r\n";
const UNAUTHENTICATED: &str = "CLIENT_ERROR unauthenticated\r\n";
const FAILURE: &str = "CLIENT_ERROR authentication failure\r\n";

fn joe() -> Rights {
    Rights::new(b"joe", b"", Access::Full, b"joe")
}

fn rights(prefix: &str, access: Access) -> Rights {
    Rights::new(b"joe", prefix.as_bytes(), access, b"joe")
}

fn users(of: Rights) -> Arc<Users> {
    Arc::new([of].into_iter().collect())
}

fn configure(of: Rights) -> impl FnOnce(&mut Config) {
    move |config| config.users = Some(users(of))
}

/// One scripted backend.
fn scripted() -> Rig {
    Rig::with_config(1, 0, configure(joe()))
}

/// Whose password is `secret`.
fn check(rig: &mut Rig, of: &Rights) {
    let (_, credentials) = rig.checks.front().unwrap();
    let right = *credentials.user == *of.user() && credentials.password.expose() == b"secret";
    let checked = if right {
        Checked::Granted(Arc::new(of.clone()))
    } else {
        Checked::Denied
    };
    rig.checked(&checked);
}

/// A client of `rig` that has logged in as a user with these rights.
fn logged_in(rig: &mut Rig, of: &Rights) -> ClientId {
    let client = rig.client();
    rig.send(client, LOGIN);
    check(rig, of);
    assert_eq!(rig.got(client), "STORED\r\n");
    client
}

fn nodes(primaries: u16, backups: u16, configure: impl FnOnce(&mut Config)) -> Rig {
    let mut rig = Rig::with_config(primaries, backups, configure);
    rig.use_nodes();
    rig
}

/// Model memcacheds, and a client whose rights are these.
fn with_rights(of: &Rights) -> (Rig, ClientId) {
    let mut rig = nodes(3, 2, configure(of.clone()));
    let client = logged_in(&mut rig, of);
    (rig, client)
}

fn sasl(code: u8, mechanism: &str, message: &[u8]) -> Ask {
    Ask::new(code, b"", mechanism.as_bytes(), message)
}

fn plain(password: &str) -> Ask {
    sasl(0x21, "PLAIN", format!("\0joe\0{password}").as_bytes())
}

/// What a stranger is told, and that no backend hears of it.
#[track_caller]
fn stranger(request: &[u8], expected: &str) {
    let mut rig = scripted();
    let client = rig.client();
    rig.send(client, request);
    assert_eq!(rig.got(client), expected, "{}", request.escape_ascii());
    assert_eq!(rig.sent(0), "", "{}", request.escape_ascii());
    assert!(rig.checks.is_empty() && rig.closed.is_empty());
}

#[test]
fn a_stranger_is_told_nothing_in_text() {
    for line in [
        "get a",
        "gets a",
        "gat 0 a",
        "gats 0 a",
        "mg a v",
        "mn",
        "md a q",
        "ma a",
        "me a",
        "add x 0 0 10",
        "cas x 0 0 10 1",
        "ms a 10",
        "delete a",
        "delete a noreply",
        "incr a 1",
        "touch a 0",
        "version",
        "stats",
        "flush_all",
        "flush_all noreply",
        "verbosity 1",
        "quit",
        "garbage",
        "",
        "watch",
        "lru_crawler metadump all",
        "GET / HTTP/1.1",
        "set x 0 0",
        "set x 0 0 -1",
        "set x 0 0 abc",
        "SET x 0 0 10",
        "shutdown",
    ] {
        stranger(format!("{line}\r\n").as_bytes(), UNAUTHENTICATED);
        stranger(format!("{line}\n").as_bytes(), UNAUTHENTICATED);
    }
}

#[test]
fn each_line_of_a_stranger_is_answered() {
    stranger(
        b"get a\r\nset b 0 0\r\nquit\r\n",
        &UNAUTHENTICATED.repeat(3),
    );
}

#[test]
fn logins_that_are_none() {
    stranger(b"set x 0 0 5\r\njoe secret\r\n", {
        // The rest of the value is a line of its own.
        "CLIENT_ERROR bad command line termination\r\nCLIENT_ERROR unauthenticated\r\n"
    });
    for value in ["", "joesecret", "joe:secret", "joe\tsecret", " "] {
        let request = format!("set x 0 0 {}\r\n{value}\r\n", value.len());
        stranger(
            request.as_bytes(),
            "CLIENT_ERROR bad authentication token format\r\n",
        );
    }
}

#[test]
fn a_login_in_text_however_it_is_written() {
    for line in [
        "set x 0 0 10",
        " set x 0 0 10",
        "set  x 0  0 10 ",
        "set x a b 10",
        "set x 0 0 10 noreply",
        "set x 0 0 10 1 2 3 4",
        &format!("set {} 0 0 10", "k".repeat(300)),
    ] {
        let mut rig = scripted();
        let client = rig.client();
        let request = format!("{line}\r\njoe secret\r\n");
        for byte in request.as_bytes() {
            assert!(rig.checks.is_empty(), "{line}");
            rig.send(client, &[*byte]);
        }
        check(&mut rig, &joe());
        assert_eq!(rig.got(client), "STORED\r\n", "{line}");
        assert_eq!(rig.sent(0), "", "{line}");
        rig.send(client, b"mn\r\n");
        assert_eq!(rig.got(client), "MN\r\n", "{line}");
    }
}

#[test]
fn what_is_pipelined_behind_a_login_waits_for_it() {
    let mut rig = scripted();
    let client = rig.client();
    rig.send(client, b"get early\r\n");
    rig.send(client, &[LOGIN, b"mn\r\nget k\r\n"].concat());
    rig.send(client, b"version\r\n");
    assert_eq!(rig.got(client), UNAUTHENTICATED);
    assert_eq!(rig.sent(0), "");
    assert!(!rig.engine.wants_client_data(client), "it is read on");
    check(&mut rig, &joe());
    assert_eq!(rig.sent(0), "get k\r\n");
    assert_eq!(rig.got(client), "STORED\r\nMN\r\n");
    assert!(rig.engine.wants_client_data(client));
    rig.answer(0, b"END\r\n");
    let got = rig.got(client);
    assert!(got.starts_with("END\r\nVERSION "), "{got}");

    let refused = rig.client();
    rig.send(refused, &[WRONG, b"mn\r\n"].concat());
    check(&mut rig, &joe());
    assert_eq!(rig.got(refused), [FAILURE, UNAUTHENTICATED].concat());
}

#[test]
fn after_a_login_set_is_a_set() {
    let mut rig = scripted();
    let client = logged_in(&mut rig, &joe());
    rig.send(client, WRONG);
    assert_eq!(rig.sent(0), "set x 0 0 9\r\njoe wrong\r\n");
    assert!(rig.checks.is_empty());
    assert_eq!(rig.count(Counter::AuthCmds), 1);
    assert_eq!(rig.count(Counter::AuthErrors), 0);
}

#[test]
fn who_guesses_has_to_connect_again() {
    let mut rig = scripted();
    let client = rig.client();
    rig.send(client, &WRONG.repeat(5));
    for _ in 0..3 {
        check(&mut rig, &joe());
    }
    assert_eq!(rig.got(client), FAILURE.repeat(3));
    assert_eq!(rig.closed, [client]);
    assert!(rig.checks.is_empty());
    assert_eq!(rig.count(Counter::AuthErrors), 3);
}

#[test]
fn who_is_told_to_come_later_has_not_guessed() {
    let mut rig = scripted();
    let client = rig.client();
    for _ in 0..5 {
        rig.send(client, LOGIN);
        rig.checked(&Checked::Busy);
        assert!(rig.got(client).starts_with("SERVER_ERROR "));
    }
    rig.send(client, LOGIN);
    check(&mut rig, &joe());
    assert_eq!(rig.got(client), "STORED\r\n");
}

#[test]
fn a_login_is_bounded() {
    let mut rig = scripted();
    let long = rig.client();
    rig.send(long, &[b'g'; 2_100]);
    assert_eq!((rig.got(long).as_str(), &*rig.closed), ("", &[long][..]));
    let large = rig.client();
    rig.send(large, b"set x 0 0 4294967295\r\njoe secret\r\n");
    assert_eq!(rig.got(large), FAILURE);
    assert_eq!(rig.closed, [long, large]);
    let packet = rig.client();
    rig.send(packet, &sasl(0x21, "PLAIN", &[b'a'; 2_000]).bytes());
    assert_eq!(shown(&rig.got_bytes(packet)), ["21:20 v=Auth failure."]);
    assert_eq!(rig.closed.len(), 2);
    assert!(rig.checks.is_empty());
}

#[test]
fn a_client_that_leaves_while_it_is_checked() {
    let mut rig = scripted();
    let gone = rig.client();
    rig.send(gone, LOGIN);
    rig.lose_client(gone);
    let next = rig.client();
    assert_eq!(next.index, gone.index);
    check(&mut rig, &joe());
    rig.send(next, b"mn\r\n");
    assert_eq!(rig.got(next), UNAUTHENTICATED);
    // One that has sent its last byte is answered.
    rig.send(next, &[LOGIN, b"mn\r\n"].concat());
    rig.engine.handle(rig.now, Input::ClientEnd(next));
    rig.run();
    check(&mut rig, &joe());
    assert_eq!(rig.got(next), "STORED\r\nMN\r\n");
    assert_eq!(rig.closed.last(), Some(&next));
    assert!(rig.engine.is_drained());
    assert_eq!(rig.memory_len(), 0);
}

#[test]
fn a_drain_waits_for_a_login() {
    let mut rig = scripted();
    let client = rig.client();
    rig.send(client, LOGIN);
    rig.engine.handle(rig.now, Input::Drain);
    rig.run();
    assert!(!rig.engine.is_drained());
    check(&mut rig, &joe());
    assert_eq!(rig.got(client), "STORED\r\n");
    assert!(rig.engine.is_drained());
}

#[test]
fn a_user_that_is_taken_away_is_closed_after_its_answers() {
    let mut rig = scripted();
    let client = logged_in(&mut rig, &joe());
    rig.send(client, b"get k\r\n");
    let same = users(joe());
    rig.engine.handle(rig.now, Input::Users(&same));
    rig.run();
    assert!(rig.closed.is_empty(), "its line is the same");
    let other = users(Rights::new(b"joe", b"", Access::Full, b"another password"));
    rig.engine.handle(rig.now, Input::Users(&other));
    rig.run();
    assert!(rig.closed.is_empty(), "it waits for an answer");
    rig.answer(0, b"VALUE k 0 1\r\n1\r\nEND\r\n");
    assert_eq!(rig.got(client), "VALUE k 0 1\r\n1\r\nEND\r\n");
    assert_eq!(rig.closed, [client]);
    // What was right when it was asked is not any more.
    let late = rig.client();
    rig.send(late, LOGIN);
    check(&mut rig, &joe());
    assert!(rig.got(late).starts_with("SERVER_ERROR "));
}

#[test]
fn without_users_sasl_is_unknown() {
    let mut rig = Rig::new(1, 0);
    let client = rig.client();
    rig.send(
        client,
        &[
            bare(0x20, "", "").bytes(),
            plain("secret").bytes(),
            noop().bytes(),
        ]
        .concat(),
    );
    let unknown = |code| format!("{code}:81 v=Unknown command");
    assert_eq!(
        shown(&rig.got_bytes(client)),
        [unknown(20), unknown(21), "0a:0".to_owned()]
    );
}

/// Packets of one client; each login is checked when it comes. Whether the client is closed at the end.
#[track_caller]
fn binary(asks: &[Ask], expected: &[&str], closed: bool) {
    let whole: Vec<u8> = asks.iter().flat_map(Ask::bytes).collect();
    for chunk_len in [whole.len(), 1] {
        let mut rig = scripted();
        let client = rig.client();
        for chunk in whole.chunks(chunk_len) {
            rig.send(client, chunk);
            while !rig.checks.is_empty() {
                check(&mut rig, &joe());
            }
        }
        assert_eq!(shown(&rig.got_bytes(client)), expected);
        assert_eq!(!rig.closed.is_empty(), closed, "{expected:?}");
        assert_eq!(rig.sent(0), "");
    }
}

#[test]
fn a_stranger_is_hung_up_on_in_binary() {
    for ask in [
        bare(0x00, "k", ""),
        bare(0x09, "k", ""),
        bare(0x0c, "k", ""),
        bare(0x0d, "k", ""),
        store(0x01, "k", "v"),
        store(0x11, "k", "v"),
        bare(0x0e, "k", "v"),
        bare(0x04, "k", ""),
        bare(0x14, "k", ""),
        count(0x05, "k", 1, 0, 0),
        bare(0x08, "", ""),
        noop(),
        bare(0x10, "", ""),
        touch(0x1c, "k", 0),
        touch(0x1d, "k", 0),
        bare(0x07, "", ""),
        bare(0x17, "", ""),
        bare(0x50, "x", "y"),
        bare(0x1b, "", ""),
        bare(0x00, "", ""),
        bare(0x00, &"k".repeat(300), ""),
    ] {
        let told = format!("{:02x}:20 v=Auth failure.", ask.code);
        binary(&[ask.clone(), bare(0x0b, "", "")], &[&told], true);
    }
    let mut broken = bare(0x00, "key", "").bytes();
    broken[11] = 1;
    let mut rig = scripted();
    let client = rig.client();
    rig.send(client, &broken);
    assert_eq!(shown(&rig.got_bytes(client)), ["00:81 v=Unknown command"]);
}

#[test]
fn logins_in_binary() {
    const OK: &str = "21:0 v=Authenticated";
    const NO: &str = "21:20 v=Auth failure.";
    let list = || bare(0x20, "", "");
    binary(
        &[list(), plain("secret"), list(), noop()],
        &["20:0 v=PLAIN", OK, "20:0 v=PLAIN", "0a:0"],
        false,
    );
    binary(
        &[plain("wrong"), plain("secret"), noop()],
        &[NO, OK, "0a:0"],
        false,
    );
    binary(
        &[plain("wrong"), noop(), plain("secret")],
        &[NO, "0a:20 v=Auth failure."],
        true,
    );
    binary(
        &[sasl(0x21, "plain", b"joe\0joe\0secret"), noop()],
        &[OK, "0a:0"],
        false,
    );
    let three = [plain("a"), plain("b"), plain("c"), plain("secret")];
    binary(&three, &[NO, NO, NO], true);
    for message in [
        "ann\0joe\0secret",
        "\0bob\0secret",
        "joesecret",
        "\0joesecret",
        "\0joe\0secret\0",
    ] {
        binary(&[sasl(0x21, "PLAIN", message.as_bytes())], &[NO], false);
    }
    binary(&[sasl(0x21, "CRAM-MD5", b"")], &[NO], false);
    let long = sasl(0x21, &"P".repeat(33), b"\0joe\0secret");
    binary(
        &[long, plain("secret")],
        &["21:4 v=Invalid arguments", OK],
        false,
    );
    binary(&[sasl(0x21, "", b"x")], &["21:4 v=Invalid arguments"], true);
}

#[test]
fn a_login_in_two_steps() {
    let begin = || sasl(0x21, "PLAIN", b"");
    let step = |password: &str| sasl(0x22, "PLAIN", format!("\0joe\0{password}").as_bytes());
    binary(
        &[begin(), step("secret"), noop()],
        &["21:21", "22:0 v=Authenticated", "0a:0"],
        false,
    );
    binary(&[step("secret")], &["22:20 v=Auth failure."], false);
    binary(
        &[begin(), step("wrong"), step("secret")],
        &["21:21", "22:20 v=Auth failure.", "22:20 v=Auth failure."],
        false,
    );
}

#[test]
fn who_logs_in_again_is_a_stranger_until_then() {
    const OK: &str = "21:0 v=Authenticated";
    binary(
        &[plain("secret"), plain("secret"), noop()],
        &[OK, OK, "0a:0"],
        false,
    );
    binary(
        &[plain("secret"), plain("wrong"), noop()],
        &[OK, "21:20 v=Auth failure.", "0a:20 v=Auth failure."],
        true,
    );
    binary(
        &[
            plain("secret"),
            sasl(0x22, "PLAIN", b"\0joe\0secret"),
            noop(),
        ],
        &[OK, "22:20 v=Auth failure.", "0a:20 v=Auth failure."],
        true,
    );
    // Only a version comes before a login, as with memcached.
    let mut rig = scripted();
    let client = rig.client();
    rig.send(client, &bare(0x0b, "", "").bytes());
    assert!(shown(&rig.got_bytes(client))[0].starts_with("0b:0 v="));
    rig.send(client, &plain("secret").bytes());
    rig.checked(&Checked::Busy);
    assert_eq!(shown(&rig.got_bytes(client)), ["21:85 v=Busy"]);
}

#[test]
fn a_reader_changes_nothing() {
    let reader = rights("", Access::ReadOnly);
    let mut rig = Rig::with_config(1, 0, configure(reader.clone()));
    let client = logged_in(&mut rig, &reader);
    const NO: &str = "CLIENT_ERROR this user may only read\r\n";
    for request in [
        "set k 0 0 1\r\n1",
        "add k 0 0 1\r\n1",
        "cas k 0 0 1 1\r\n1",
        "append k 0 0 1\r\n1",
        "delete k",
        "incr k 1",
        "decr k 1",
        "touch k 0",
        "gat 0 k",
        "gats 0 k",
        "ms k 1\r\n1",
        "ms k 1 q\r\n1",
        "md k",
        "md k q",
        "ma k",
        "ma k q",
        "mg k T30",
        "mg k N30 v",
        "mg k R30 v q",
    ] {
        rig.send(client, format!("{request}\r\nmn\r\n").as_bytes());
        assert_eq!(rig.got(client), format!("{NO}MN\r\n"), "{request}");
    }
    for request in [
        "set k 0 0 1 noreply\r\n1",
        "delete k noreply",
        "incr k 1 noreply",
        "touch k 1 noreply",
    ] {
        rig.send(client, format!("{request}\r\nmn\r\n").as_bytes());
        assert_eq!(rig.got(client), "MN\r\n", "{request}");
    }
    for request in [
        "flush_all",
        "flush_all 1",
        "stats reset",
        "stats items",
        "stats settings",
    ] {
        rig.send(client, format!("{request}\r\n").as_bytes());
        assert_eq!(
            rig.got(client),
            "CLIENT_ERROR this user may not do that\r\n",
            "{request}"
        );
    }
    assert_eq!(rig.sent(0), "");
    rig.send(client, b"get k\r\nmg k v\r\nme k\r\n");
    assert_eq!(rig.sent(0), "get k\r\nmg k v\r\nme k\r\n");
}

#[test]
fn a_reader_changes_nothing_in_binary() {
    let reader = rights("", Access::ReadOnly);
    let mut rig = Rig::with_config(1, 0, configure(reader.clone()));
    let client = rig.client();
    rig.send(client, &plain("secret").bytes());
    check(&mut rig, &reader);
    rig.got_bytes(client);
    for ask in [
        store(0x01, "k", "v"),
        store(0x11, "k", "v"),
        store(0x02, "k", "v"),
        bare(0x0e, "k", "v"),
        bare(0x04, "k", ""),
        bare(0x14, "k", ""),
        count(0x05, "k", 1, 0, 0),
        touch(0x1c, "k", 0),
        touch(0x1d, "k", 0),
        touch(0x1e, "k", 0),
        bare(0x08, "", ""),
        bare(0x18, "", ""),
        bare(0x10, "reset", ""),
    ] {
        rig.send(client, &[ask.bytes(), noop().bytes()].concat());
        let told = format!("{:02x}:20 v=Auth failure.", ask.code);
        assert_eq!(shown(&rig.got_bytes(client)), [told.as_str(), "0a:0"]);
    }
    assert_eq!(rig.sent(0), "");
    rig.send(client, &bare(0x0c, "k", "").bytes());
    assert_eq!(rig.sent(0), "gets k\r\n");
}

#[test]
fn a_prefix_is_part_of_every_key_and_of_no_answer() {
    let shop = rights("shop:", Access::Full);
    let (mut rig, client) = with_rights(&shop);
    let mut say = |request: &str, expected: &str| {
        rig.send(client, request.as_bytes());
        assert_eq!(rig.got(client), expected, "{request}");
    };
    say("set k 5 0 1\r\n1\r\n", "STORED\r\n");
    say("get k\r\n", "VALUE k 5 1\r\n1\r\nEND\r\n");
    say(
        "get x k shop:k k\r\n",
        "VALUE k 5 1\r\n1\r\nVALUE k 5 1\r\n1\r\nEND\r\n",
    );
    say("gat 0 k\r\n", "VALUE k 5 1\r\n1\r\nEND\r\n");
    say("incr k 1\r\n", "2\r\n");
    say("append k 0 0 1\r\n0\r\n", "STORED\r\n");
    say("touch k 0\r\n", "TOUCHED\r\n");
    say("mg k k v f\r\n", "VA 2 kk f5\r\n20\r\n");
    say("mg k v k O123\r\n", "VA 2 kk O123\r\n20\r\n");
    say("mg absent k O1\r\n", "EN kabsent O1\r\n");
    // `k` in base64.
    say("mg aw== b k v\r\n", "VA 2 kk\r\n20\r\n");
    say("ms Yg== 1 b k\r\n3\r\n", "HD kYg== b\r\n");
    say("mg Yg== b v k\r\n", "VA 1 kYg== b\r\n3\r\n");
    say("md k k q\r\nmn\r\n", "MN\r\n");
    say("get k\r\n", "END\r\n");
    say("ma n N0 J7 k v\r\n", "VA 1 kn\r\n7\r\n");
    say(
        "flush_all\r\n",
        "CLIENT_ERROR this user may not do that\r\n",
    );
    rig.send(client, b"me n\r\n");
    assert!(rig.got(client).starts_with("ME n "));
    // On the backends it is there.
    let now = magent_node::Time(rig.now.0);
    let stores = rig.peers.iter().map(|peer| peer.store.as_ref().unwrap());
    let held: Vec<String> = stores
        .flat_map(|store| store.items(now))
        .map(|item| String::from_utf8_lossy(item.key).into_owned())
        .collect();
    assert!(
        !held.is_empty() && held.iter().all(|key| key.starts_with("shop:")),
        "{held:?}"
    );
}

#[test]
fn a_key_with_its_prefix_has_a_limit() {
    let shop = rights("shop:", Access::Full);
    let (mut rig, client) = with_rights(&shop);
    let (fits, long) = ("k".repeat(245), "k".repeat(246));
    const NO: &str = "CLIENT_ERROR bad command line format\r\n";
    rig.send(
        client,
        format!("set {fits} 0 0 1\r\n1\r\nget {fits}\r\n").as_bytes(),
    );
    assert_eq!(
        rig.got(client),
        format!("STORED\r\nVALUE {fits} 0 1\r\n1\r\nEND\r\n")
    );
    for request in [
        format!("set {long} 0 0 1\r\n1"),
        format!("get a {long} b"),
        format!("delete {long}"),
        format!("incr {long} 1"),
        format!("touch {long} 1"),
        format!("gat 0 {long}"),
        format!("mg {long} v"),
        format!("ms {long} 1\r\n1"),
        format!("mg {} b v", "YWFh".repeat(62)),
    ] {
        rig.send(client, format!("{request}\r\nmn\r\n").as_bytes());
        assert_eq!(rig.got(client), format!("{NO}MN\r\n"), "{request}");
    }
}

#[test]
fn a_prefix_in_binary() {
    let shop = rights("shop:", Access::Full);
    let mut rig = nodes(3, 2, configure(shop.clone()));
    let client = rig.client();
    rig.send(client, &plain("secret").bytes());
    check(&mut rig, &shop);
    rig.got_bytes(client);
    let text = logged_in(&mut rig, &shop);
    let blank = Ask::new(0x0c, b"", b"a key", b"");
    let asks = [
        store(0x01, "k", "v"),
        bare(0x0c, "k", ""),
        bare(0x0d, "k", ""),
        bare(0x0c, "absent", ""),
        touch(0x23, "k", 0),
        store(0x01, "a key", "w"),
        blank,
        bare(0x00, &"k".repeat(246), ""),
        bare(0x10, "items", ""),
        bare(0x08, "", ""),
        count(0x05, "n", 1, 5, 0),
        noop(),
    ];
    let whole: Vec<u8> = asks.iter().flat_map(Ask::bytes).collect();
    rig.send(client, &whole);
    assert_eq!(
        shown(&rig.got_bytes(client)),
        [
            "01:0 c",
            "0c:0 f=00000005 k=k v=v c",
            "0d:0 f=00000005 k=k v=v c",
            "0c:1 k=absent",
            "23:0 f=00000005 k=k v=v c",
            "01:0 c",
            "0c:0 f=00000005 k=a key v=w c",
            "00:4 v=Invalid arguments",
            "10:20 v=Auth failure.",
            "08:20 v=Auth failure.",
            "05:0 v=\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x05 c",
            "0a:0",
        ]
    );
    rig.send(text, b"get k\r\n");
    assert_eq!(rig.got(text), "VALUE k 5 1\r\nv\r\nEND\r\n");
}

#[test]
fn users_with_prefixes_do_not_meet() {
    let (shop, bank) = (
        Rights::new(b"joe", b"shop:", Access::Full, b"joe"),
        Rights::new(b"ann", b"bank:", Access::Full, b"ann"),
    );
    let both: Arc<Users> = Arc::new([shop.clone(), bank.clone()].into_iter().collect());
    let mut rig = nodes(2, 0, |config| config.users = Some(both));
    let joe = logged_in(&mut rig, &shop);
    let ann = rig.client();
    rig.send(ann, b"set x 0 0 10\r\nann secret\r\n");
    check(&mut rig, &bank);
    rig.got(ann);
    rig.send(joe, b"set k 0 0 1\r\n1\r\n");
    rig.send(ann, b"get k shop:k ../shop:k\r\nset k 0 0 1\r\n2\r\n");
    assert_eq!(rig.got(ann), "END\r\nSTORED\r\n");
    rig.got(joe);
    rig.send(joe, b"get k\r\n");
    assert_eq!(rig.got(joe), "VALUE k 0 1\r\n1\r\nEND\r\n");
}

#[test]
fn a_large_value_is_forwarded_without_its_prefix() {
    let shop = rights("shop:", Access::Full);
    let mut rig = Rig::with_config(1, 0, |config| {
        configure(shop.clone())(config);
        config.limits.stream_len_min = 100;
    });
    let client = logged_in(&mut rig, &shop);
    rig.send(client, b"get k\r\n");
    assert_eq!(rig.sent(0), "get shop:k\r\n");
    let value = "v".repeat(200);
    rig.answer(
        0,
        format!("VALUE shop:k 0 200\r\n{}", &value[..50]).as_bytes(),
    );
    assert_eq!(
        rig.got(client),
        format!("VALUE k 0 200\r\n{}", &value[..50])
    );
    rig.answer(0, format!("{}\r\nEND\r\n", &value[50..]).as_bytes());
    assert_eq!(rig.got(client), format!("{}\r\nEND\r\n", &value[50..]));
}

#[test]
fn a_miss_that_the_proxy_makes_up_has_no_prefix() {
    let shop = rights("shop:", Access::Full);
    let mut rig = Rig::with_config(1, 0, configure(shop.clone()));
    let client = logged_in(&mut rig, &shop);
    rig.kill(0);
    rig.send(client, b"mg k k O1 v\r\nmg aw== b k v\r\n");
    rig.pass_ms(3_000);
    assert_eq!(rig.got(client), "EN kk O1\r\nEN kaw== b\r\n");
}

#[test]
fn a_session_behind_a_prefix_keeps_its_order() {
    let shop = rights("shop:", Access::Full);
    let mut rig = Rig::with_config(2, 0, configure(shop.clone()));
    let client = logged_in(&mut rig, &shop);
    let is_apart = |id: &String| {
        rig.primary_of(&format!("shop:{id}")) == 0
            && rig.primary_of(&format!("shop:{id}.lock")) == 1
    };
    let id = (0..).map(|n| format!("s{n}")).find(is_apart).unwrap();
    rig.send(
        client,
        format!("add {id}.lock 768 15 1\r\n1\r\nget {id}\r\n").as_bytes(),
    );
    assert_eq!(rig.sent(0), "");
    assert_eq!(rig.sent(1), format!("add shop:{id}.lock 768 15 1\r\n1\r\n"));
    rig.answer(1, b"STORED\r\n");
    assert_eq!(rig.sent(0), format!("get shop:{id}\r\n"));
}

#[test]
fn everybody_who_has_logged_in_may_discover_proxies() {
    let shop = rights("shop:", Access::ReadOnly);
    let mut rig = Rig::with_config(1, 0, |config| {
        configure(shop.clone())(config);
        config.advertised = Some(Advertised {
            proxies: vec![AdvertisedProxy {
                host: "cache".to_owned(),
                ip: String::new(),
                port: 11_211,
            }],
            version: Some(3),
        });
    });
    let client = rig.client();
    rig.send(client, b"config get cluster\r\n");
    assert_eq!(rig.got(client), "CLIENT_ERROR unauthenticated\r\n");
    let client = logged_in(&mut rig, &shop);
    rig.send(
        client,
        b"config get cluster\r\nget AmazonElastiCache:cluster\r\n",
    );
    assert_eq!(
        rig.got(client),
        "CONFIG cluster 0 15\r\n3\ncache||11211\n\r\nEND\r\n\
         VALUE AmazonElastiCache:cluster 0 15\r\n3\ncache||11211\n\r\nEND\r\n"
    );
    assert_eq!(rig.sent(0), "");
}
