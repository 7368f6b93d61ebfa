//! One cell of a table, played on the rig: a primary, perhaps a backup, and a keeper that waits for a
//! second worker.

use magent_core::BackendId;
use magent_core::config::Hedge;
use magent_core::engine::ClientId;
use magent_core::placement::Phase;

use crate::rig::Rig;

pub(crate) const KEYS: [&str; 2] = ["key", "left"];
const KEY_BASE64: &str = "a2V5";

const NOBODY: &str = "SERVER_ERROR no backend for this key is up\r\n";
const FAILED: &str = "SERVER_ERROR backend failed before it answered\r\n";

/// A row of the table of commands, with keys and line ends filled in.
#[derive(Clone)]
pub(crate) struct Command {
    pub(crate) sends: String,
    pub(crate) asked: String,
    pub(crate) told: String,
    /// What a follower that is not in step is told instead; `None`: the same.
    pub(crate) told_behind: Option<String>,
    pub(crate) says: String,
    pub(crate) other_says: String,
    pub(crate) hears: Hears,
    pub(crate) if_nobody: String,
}

/// What the client hears.
#[derive(Clone)]
pub(crate) enum Hears {
    /// The answer that counts.
    Answer,
    This(String),
    /// Statistics of those who answered.
    Sum,
}

/// How a backend that was asked fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failing {
    Reset,
    Desync,
    Silent,
}

/// What the tables leave open, because it makes no difference.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Variant {
    /// Of two that are asked at once, the second answers first.
    pub(crate) reversed: bool,
    pub(crate) failing: Failing,
}

/// What a backend has to be rid of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missed {
    Nothing,
    Keys,
    Flush,
}

pub(crate) struct Case {
    pub(crate) rig: Rig,
    client: ClientId,
    bystander: ClientId,
    /// By backend: whether it owes an answer, and what it says after it.
    busy: Vec<bool>,
    tails: Vec<String>,
    missed: Vec<Missed>,
    /// What the table says, for messages.
    what: String,
}

/// Fills in keys and line ends.
pub(crate) fn bytes(cell: &str) -> String {
    let text = match cell {
        "–" | "nothing" => return String::new(),
        text => text,
    };
    let text = text
        .replace("K64", KEY_BASE64)
        .replace(" K", &format!(" {}", KEYS[0]))
        .replace(" L", &format!(" {}", KEYS[1]));
    text.replace('↵', "\r\n") + "\r\n"
}

fn index(name: &str) -> usize {
    match name {
        "p" => 0,
        "b" => 1,
        other => panic!("no backend {other:?}"),
    }
}

impl Case {
    /// The state of the row that starts with `state`, reached the way that the row says.
    pub(crate) fn new(state: &str, way: &str, what: String) -> Self {
        let backups = u16::from(!state.starts_with("no backup"));
        // Hedged reads have tests of their own.
        let mut rig = Rig::with_config(1, backups, |config| config.hedge = Hedge::Off);
        rig = rig.with_keeper_and_second_worker();
        rig.healer.slow = true;
        let peers = rig.peers.len();
        let mut case = Self {
            client: rig.client(),
            bystander: rig.client(),
            rig,
            busy: vec![false; peers],
            tails: vec![String::new(); peers],
            missed: vec![Missed::Nothing; peers],
            what,
        };
        for step in way.split(", ").filter(|&step| step != "–") {
            match step.split_once(' ') {
                Some(("all", "know")) => case.rig.second_worker_acknowledges(),
                Some((name, "fails")) => case.fail_idle(index(name)),
                Some((name, "hangs up")) => case.hang_up(index(name)),
                Some((name, "returns")) => case.return_to(index(name), Phase::Purging),
                Some((name, "is purged")) => {
                    let has_partner = case.rig.peers.len() > 1;
                    let phase = if has_partner {
                        Phase::CatchingUp
                    } else {
                        Phase::Up
                    };
                    case.return_to(index(name), phase);
                }
                Some((name, "has caught up")) => {
                    case.rig.catches_up(index(name));
                    assert_eq!(case.rig.phase(index(name)), Phase::Flipping);
                }
                _ => panic!("no step {step:?}"),
            }
        }
        case
    }

    /// A backend fails with something unanswered that concerns no key.
    fn fail_idle(&mut self, failing: usize) {
        self.ask_bystanding(Some(failing));
        self.rig.kill(failing);
    }

    /// A backend closes its connection while it owes nothing.
    fn hang_up(&mut self, backend: usize) {
        self.ask_bystanding(None);
        self.rig.lose(backend);
    }

    /// Another client asks something of all backends; they answer, but for `but` and those that owe more.
    fn ask_bystanding(&mut self, but: Option<usize>) {
        let asked = "stats settings\r\n";
        self.rig.send(self.bystander, asked.as_bytes());
        for backend in 0..self.rig.peers.len() {
            let sent = self.rig.sent(backend);
            if Some(backend) == but {
                assert_eq!(sent, asked, "{}: of {backend}", self.what);
            } else if sent == asked && self.busy[backend] {
                self.tails[backend].push_str("END\r\n");
            } else if sent == asked {
                self.rig.answer(backend, b"END\r\n");
            } else {
                assert_eq!(sent, "", "{}: of {backend}", self.what);
            }
        }
    }

    fn return_to(&mut self, backend: usize, phase: Phase) {
        self.rig.peers[backend].alive = true;
        if phase != Phase::Purging {
            self.rig.second_worker_has_purged(backend);
        }
        for _ in 0..40 {
            if self.rig.phase(backend) == phase {
                return self.rig.second_worker_acknowledges();
            }
            self.rig.pass_ms(100);
        }
        panic!("{}: {backend} does not return", self.what);
    }

    /// Plays a cell from the request to the answer.
    pub(crate) fn play(&mut self, command: &Command, cell: &str, variant: Variant) {
        self.rig.healer.recopied.clear();
        self.rig.send(self.client, command.sends.as_bytes());
        let mut heard = match &command.hears {
            Hears::This(text) => text.clone(),
            Hears::Answer | Hears::Sum => String::new(),
        };
        let mut absent = Vec::new();
        let mut p_answered = false;
        for token in cell.split(", ") {
            match token.split_once(' ') {
                None if matches!(token, "waits" | "held") => self.settle(),
                None if token == "here" => {}
                None if token == "nobody" => heard = or_error(&command.if_nobody, NOBODY),
                None if token == "failed" => heard = or_error(&command.if_nobody, FAILED),
                None if token == "partly" && command.sends.contains("noreply") => {}
                None if token == "partly" => {
                    heard = "SERVER_ERROR flushed, but not on 10.0.0.1:20000\r\n".to_owned();
                }
                None if token.starts_with('!') => self.note_missed(token),
                Some(("names", name)) => absent.push(index(name)),
                Some(("waits", purged)) => self.purge(purged),
                _ if token.contains(" ⇢ ") => {
                    heard = self.tell_behind(command, token, variant).unwrap_or(heard);
                }
                _ => {
                    let mut groups = token.split(" → ");
                    let asked = groups.next().unwrap();
                    let answer = self.exchange(asked, &command.asked, command, variant);
                    p_answered |= asked.split('+').any(|member| member == "p");
                    if let (Hears::Answer, Some(answer)) = (&command.hears, answer) {
                        heard = answer;
                    }
                    for told in groups {
                        let other = Command {
                            says: command.other_says.clone(),
                            ..command.clone()
                        };
                        self.exchange(told, &command.told, &other, variant);
                    }
                }
            }
        }
        let got = self.rig.got(self.client);
        if matches!(command.hears, Hears::Sum) {
            self.check_sum(&got, p_answered, &absent);
        } else {
            assert_eq!(got, heard, "{}: the client hears", self.what);
        }
        self.nothing_is_sent();
    }

    /// As `→`, with a follower that is not in step.
    fn tell_behind(&mut self, command: &Command, token: &str, variant: Variant) -> Option<String> {
        let (asked, told) = token.split_once(" ⇢ ").unwrap();
        let answer = self.exchange(asked, &command.asked, command, variant);
        let line = command.told_behind.as_ref().unwrap_or(&command.told);
        let touches = line.starts_with("touch ") || line.starts_with("mg ");
        let says = match &command.told_behind {
            None => command.other_says.clone(),
            Some(deletions) if deletions.starts_with("md ") => "HD\r\n".to_owned(),
            Some(deletions) => "DELETED\r\n".repeat(deletions.lines().count()),
        };
        let other = Command {
            says,
            ..command.clone()
        };
        self.exchange(told, line, &other, variant);
        let is_recopied = |(_, said): &(&str, &str)| match &command.told_behind {
            Some(_) => true,
            None => touches && (told.contains('✗') || ["NOT_FOUND", "EN"].contains(said)),
        };
        let lines = line.lines().zip(other.says.lines());
        let expected = lines.filter(is_recopied).count();
        let recopied = std::mem::take(&mut self.rig.healer.recopied);
        let target = BackendId(u16::try_from(index(told.trim_matches('✗'))).unwrap());
        assert_eq!(recopied.len(), expected, "{}", self.what);
        assert!(
            recopied.iter().all(|(backend, _)| *backend == target),
            "{}",
            self.what
        );
        match &command.hears {
            Hears::Answer => answer,
            Hears::This(_) | Hears::Sum => None,
        }
    }

    /// Waits until all have purged a backend.
    fn purge(&mut self, until: &str) {
        self.hears_nothing();
        self.nothing_is_sent();
        let backend = index(until.strip_prefix("for ").unwrap());
        self.rig.second_worker_has_purged(backend);
    }

    /// What is left to do: what waited for all workers, and what is deleted from those who return.
    pub(crate) fn finish(mut self) {
        self.settle();
        self.rig.healer.slow = false;
        for backend in 0..self.rig.peers.len() {
            if self.rig.peers.len() > 1 {
                self.rig.catches_up(backend);
            }
            if self.rig.phase(backend) != Phase::Down {
                self.fail_idle(backend);
            }
        }
        let mut deleted = vec![String::new(); self.rig.peers.len()];
        for peer in &mut self.rig.peers {
            peer.alive = true;
        }
        for _ in 0..100 {
            self.rig.pass_ms(50);
            self.rig.second_worker_acknowledges();
            for (backend, deleted) in deleted.iter_mut().enumerate() {
                let sent = self.rig.sent(backend);
                for line in sent.lines() {
                    let answer: &[u8] = match line {
                        "flush_all" => b"OK\r\n",
                        _ => b"DELETED\r\n",
                    };
                    self.rig.answer(backend, answer);
                }
                deleted.push_str(&sent);
                self.rig.second_worker_has_purged(backend);
            }
        }
        for (backend, deleted) in deleted.iter().enumerate() {
            assert_eq!(self.rig.phase(backend), Phase::Up, "{}", self.what);
            if self.what.contains("flush_all 30") && self.rig.peers.len() > 1 {
                // Whoever returns may have missed it or forgotten it: it is told what is left of the delay.
                let left = deleted.strip_prefix("flush_all ").map(str::trim_end);
                let left_s = left.and_then(|left| left.parse::<u64>().ok());
                assert!(
                    left_s.is_some_and(|left_s| (25..=30).contains(&left_s)),
                    "{}: {deleted:?}",
                    self.what
                );
                continue;
            }
            let keys = KEYS.map(|key| format!("delete {key}\r\n"));
            let expected = match self.missed[backend] {
                Missed::Nothing => String::new(),
                Missed::Keys if self.what.contains(" L") => keys.concat(),
                Missed::Keys => keys[0].clone(),
                Missed::Flush => "flush_all\r\n".to_owned(),
            };
            assert_eq!(
                *deleted, expected,
                "{}: {backend} is rid of what it missed",
                self.what
            );
        }
        assert_eq!(
            self.rig.got(self.client),
            "",
            "{}: answered twice",
            self.what
        );
        self.rig.lose_client(self.client);
        self.rig.lose_client(self.bystander);
        assert!(
            self.rig.engine.is_drained(),
            "{}: an exchange is left",
            self.what
        );
        assert_eq!(self.rig.memory_len(), 0, "{}", self.what);
    }

    /// Several backends get `line` at once, and answer or fail. Yields the answer that counts.
    fn exchange(
        &mut self,
        group: &str,
        line: &str,
        command: &Command,
        variant: Variant,
    ) -> Option<String> {
        let members: Vec<&str> = group.split('+').collect();
        let asked: Vec<&str> = members
            .iter()
            .copied()
            .filter(|member| !member.starts_with('✗'))
            .collect();
        self.expect_sent(group, line);
        for member in members {
            if let Some(name) = member.strip_prefix('✗') {
                self.fail_idle(index(name));
            }
        }
        let mut order: Vec<(usize, &str)> = asked.iter().copied().enumerate().collect();
        if variant.reversed {
            order.reverse();
        }
        let mut answers = vec![None; order.len()];
        for (left, (place, member)) in (0..order.len()).rev().zip(order) {
            self.hears_nothing();
            if let Some(name) = member.strip_suffix('✗') {
                self.fail(index(name), variant.failing, left > 0);
            } else {
                let says = if place == 0 {
                    &command.says
                } else {
                    &command.other_says
                };
                self.say(index(member), says);
                answers[place] = Some(says.clone());
            }
        }
        answers.into_iter().flatten().next()
    }

    /// Those named in `group` have been sent `line`, and nobody else anything.
    pub(crate) fn expect_sent(&mut self, group: &str, line: &str) {
        let members = group
            .split('+')
            .filter(|name| !name.is_empty() && !name.starts_with('✗'));
        let asked: Vec<usize> = members
            .map(|name| index(name.trim_end_matches('✗')))
            .collect();
        self.hears_nothing();
        for backend in 0..self.rig.peers.len() {
            let is_asked = asked.contains(&backend);
            let expected = if is_asked { line } else { "" };
            let sent = self.rig.sent(backend);
            assert_eq!(sent, expected, "{}: backend {backend} gets", self.what);
            self.busy[backend] |= is_asked;
        }
    }

    pub(crate) fn say(&mut self, backend: usize, says: &str) {
        self.busy[backend] = false;
        let answer = says.to_owned() + &std::mem::take(&mut self.tails[backend]);
        self.rig.answer(backend, answer.as_bytes());
    }

    fn fail(&mut self, backend: usize, failing: Failing, others_wait: bool) {
        self.busy[backend] = false;
        self.rig.peers[backend].alive = false;
        match failing {
            Failing::Desync => self.rig.answer(backend, b"WHAT\r\n"),
            // Those that are still to answer would be silent too.
            Failing::Silent if !others_wait => {
                // Until its probe fails, or it has been silent for `fail_ms`.
                for _ in 0..52 {
                    if self.rig.phase(backend) == Phase::Down {
                        break;
                    }
                    self.rig.pass_ms(10);
                }
            }
            Failing::Silent | Failing::Reset => self.rig.kill(backend),
        }
    }

    fn settle(&mut self) {
        self.hears_nothing();
        self.nothing_is_sent();
        self.rig.second_worker_acknowledges();
    }

    pub(crate) fn hears_nothing(&mut self) {
        assert_eq!(self.rig.got(self.client), "", "{}: too early", self.what);
    }

    fn nothing_is_sent(&mut self) {
        for backend in 0..self.rig.peers.len() {
            let sent = self.rig.sent(backend);
            assert_eq!(sent, "", "{}: backend {backend} gets more", self.what);
        }
    }

    fn note_missed(&mut self, token: &str) {
        let name = token.trim_start_matches('!');
        self.missed[index(name)] = match token.len() - name.len() {
            1 => Missed::Keys,
            2 => Missed::Flush,
            _ => panic!("no sign {token:?}"),
        };
    }

    /// Items are counted on primaries alone, and who has not answered is named.
    fn check_sum(&self, got: &str, p_answered: bool, absent: &[usize]) {
        let stat = |name: &str| {
            let prefix = format!("STAT {name} ");
            got.lines().find_map(|line| line.strip_prefix(&prefix))
        };
        assert_eq!(
            stat("curr_items"),
            p_answered.then_some("3"),
            "{}",
            self.what
        );
        let names: Vec<_> = absent
            .iter()
            .map(|backend| format!("10.0.0.1:{}", 20_000 + backend))
            .collect();
        let mut named: Vec<_> = stat("magent_absent")
            .map(|names| names.split(',').collect())
            .unwrap_or_default();
        named.sort_unstable();
        assert_eq!(named, names, "{}", self.what);
        assert!(got.ends_with("END\r\n"), "{}", self.what);
    }

    /// What the client has heard.
    pub(crate) fn heard(&mut self) -> String {
        self.rig.got(self.client)
    }

    /// Sends a request as the client of the case.
    pub(crate) fn send(&mut self, request: &str) {
        self.rig.send(self.client, request.as_bytes());
    }
}

/// `error` stands for the error that applies.
fn or_error(if_nobody: &str, error: &str) -> String {
    match if_nobody {
        "error\r\n" => error.to_owned(),
        other => other.to_owned(),
    }
}
