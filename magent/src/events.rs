//! Tells the operator's programs what happens to backends: `--on-event CMD` and `--event-webhook URL`.
//!
//! ```text
//! control thread ── emit ──> queue ──> dispatcher: limits ──> lanes ──> sh -c CMD      (`command`)
//!                  (never waits)       each backend's rate          └─> POST to URL    (`webhook`)
//! ```
//!
//! Both get the same facts, each event as one JSON object: [`Notice`] is the list. The command finds them in its
//! environment as well, `downtime_ms` as `MAGENT_DOWNTIME_MS` and so on.
//!
//! # Invariants
//!
//! - [`Events::emit`] never waits: not for a command, a name server, a disk or a peer. Every queue is bounded;
//!   what does not fit is dropped and counted ([`Events::dropped`]), and the log says so.
//! - Events of one backend are delivered one after the other in the order in which they happened. A backend has
//!   its lane; a slow delivery delays the backends of that lane only.
//! - A backend that flaps is told about a few times a minute, then once at the minute's end: the newest event of each
//!   kind, with the number of those left out before it (`suppressed`). So the last word is always delivered.
//! - Nothing that may be a secret of the webhook's URL reaches the log, the command's environment or its arguments.
//!
//! # Where it is called
//!
//! [`Events::start`] on the control thread's runtime, [`Events::emit`] where a backend's change is logged:
//! `Down` when it leaves a phase in which it was read, `Returned` when its purge begins, `Healed` when it is read
//! again, `Overflow` when it missed more than is remembered. [`Events::finish`] before the runtime ends.
//!
//! Not here: which events there are to tell (`control`), log lines about backends (`control`).

mod command;
mod webhook;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use magent_core::Time;
use serde::Serialize;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinSet;

use crate::log::{RateLimiter, Verdict};
use crate::worker::time_since;

pub(crate) use self::command::EventCommand;
pub(crate) use self::webhook::Webhook;

/// Events that wait for the dispatcher. It only falls behind if the whole process does.
const QUEUE_EVENTS_MAX: usize = 256;

/// Commands, and posts, at once. Backends are dealt out to them.
const LANES: usize = 4;

/// Events that wait in one lane for the delivery before them.
const LANE_EVENTS_MAX: usize = 64;

/// Events of one backend in [`WINDOW_MS`] that are delivered at once. An absence makes three or four.
const WINDOW_EVENTS_MAX: u32 = 12;

/// See [`WINDOW_EVENTS_MAX`].
const WINDOW_MS: u64 = 60_000;

/// Longest time for one command or one post.
const DELIVERY_MAX: Duration = Duration::from_secs(10);

/// Failed deliveries in the log, in each minute: an endpoint that is gone fails for every event.
const FAILURES_LOGGED_PER_MINUTE: u32 = 5;

/// What happened to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum EventKind {
    /// It failed; others take its place.
    Down,
    /// It answers again, and is being brought up to date.
    Returned,
    /// It has everything it missed, and is read again.
    Healed,
    /// It missed more acknowledged writes than are remembered.
    Overflow,
}

impl EventKind {
    /// As the command and the webhook read it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Returned => "returned",
            Self::Healed => "healed",
            Self::Overflow => "overflow",
        }
    }
}

/// What a backend is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// In `-s`.
    Primary,
    /// In `-b`.
    Backup,
}

/// One event. What does not belong to its kind, or is not known, is `None`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Event {
    /// What happened.
    #[serde(rename = "event")]
    pub(crate) kind: EventKind,
    /// To which backend: its address as configured.
    pub(crate) backend: String,
    /// What it is for; an address can be in both lists.
    pub(crate) roles: Vec<Role>,
    /// How it failed.
    pub(crate) reason: Option<String>,
    /// How long it was not read, in milliseconds.
    pub(crate) downtime_ms: Option<u64>,
    /// Keys that are remembered for it.
    pub(crate) remembered_keys: Option<u64>,
    /// Items that were copied to it.
    pub(crate) healed_items: Option<u64>,
    /// Their size.
    pub(crate) healed_bytes: Option<u64>,
}

impl Event {
    /// An event without further facts.
    pub(crate) fn new(kind: EventKind, backend: impl fmt::Display, roles: Vec<Role>) -> Self {
        Self {
            kind,
            backend: backend.to_string(),
            roles,
            reason: None,
            downtime_ms: None,
            remembered_keys: None,
            healed_items: None,
            healed_bytes: None,
        }
    }

    /// One sentence for people: `text` is what chat services show of a webhook.
    fn text(&self) -> String {
        let backend = &self.backend;
        let after = match self.downtime_ms {
            Some(ms) => format!(" after {:?}", Duration::from_millis(ms)),
            None => String::new(),
        };
        match (self.kind, &self.reason) {
            (EventKind::Down, Some(reason)) => format!("backend {backend} is down: {reason}"),
            (EventKind::Down, None) => format!("backend {backend} is down"),
            (EventKind::Returned, _) => format!("backend {backend} is back{after}"),
            (EventKind::Healed, _) => format!("backend {backend} is in step again{after}"),
            (EventKind::Overflow, _) => {
                format!("backend {backend} missed more writes than are remembered")
            }
        }
    }
}

/// What is delivered: the names of its fields are the interface.
#[derive(Clone, Debug, Serialize)]
struct Notice {
    #[serde(flatten)]
    event: Event,
    /// See [`Event::text`].
    text: String,
    /// Events of this kind and backend that were left out before this one.
    suppressed: u64,
    /// When it happened: RFC 3339, UTC.
    time: String,
    /// Of the proxy.
    pid: u32,
    /// Where the proxy listens, as configured.
    listen: String,
}

impl Notice {
    fn json(&self) -> String {
        serde_json::to_string(self).expect("every field has a form in JSON")
    }
}

/// Where events go to, and what they say about the proxy.
#[derive(Clone, Debug, Default)]
pub(crate) struct EventOptions {
    /// `--on-event`.
    pub(crate) command: Option<EventCommand>,
    /// `--event-webhook`.
    pub(crate) webhook: Option<Webhook>,
    /// The first listener.
    pub(crate) listen: String,
}

/// Takes events.
#[derive(Debug)]
pub(crate) struct Events {
    /// `None` if nobody wants them.
    queue: Option<Sender<Stamped>>,
    dropped: Arc<AtomicU64>,
    tasks: JoinSet<()>,
}

/// An event and its moment.
#[derive(Clone, Debug)]
struct Stamped {
    event: Event,
    at: SystemTime,
}

impl Events {
    /// Starts the tasks that deliver, on the current runtime. Without a command and a webhook there are none.
    pub(crate) fn start(options: EventOptions) -> Self {
        let dropped = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        let failures = Arc::new(Failures::new());
        let mut sinks = Vec::new();
        if let Some(command) = options.command {
            sinks.push(Lanes::start(Sink::Command(command), &failures, &mut tasks));
        }
        if let Some(webhook) = options.webhook {
            sinks.push(Lanes::start(Sink::Webhook(webhook), &failures, &mut tasks));
        }
        let mut queue = None;
        if !sinks.is_empty() {
            let (sender, events) = channel(QUEUE_EVENTS_MAX);
            queue = Some(sender);
            let dispatcher = Dispatcher {
                limiter: Limiter::default(),
                sinks,
                listen: options.listen,
                started: Instant::now(),
                dropped: Arc::clone(&dropped),
                dropped_logged: 0,
                failures,
            };
            tasks.spawn(dispatcher.run(events));
        }
        Self {
            queue,
            dropped,
            tasks,
        }
    }

    /// Has `event` delivered, later. Never waits; drops it if too many are waiting.
    pub(crate) fn emit(&self, event: Event) {
        let Some(queue) = &self.queue else {
            return;
        };
        let at = SystemTime::now();
        if queue.try_send(Stamped { event, at }).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Events that could not be delivered because too many were waiting, since the start.
    #[cfg(test)]
    fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Takes no more events, and waits until those that were taken are delivered, at most for `limit`.
    pub(crate) async fn finish(mut self, limit: Duration) {
        drop(self.queue.take());
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(limit, all).await.is_err() {
            tracing::warn!("events: ending without having delivered all of them");
        }
    }
}

/// Between the queue and the lanes.
struct Dispatcher {
    limiter: Limiter,
    sinks: Vec<Lanes>,
    listen: String,
    started: Instant,
    dropped: Arc<AtomicU64>,
    dropped_logged: u64,
    failures: Arc<Failures>,
}

impl Dispatcher {
    async fn run(mut self, mut events: Receiver<Stamped>) {
        loop {
            let event = tokio::select! {
                event = events.recv() => event,
                () = sleep_until(self.limiter.next_at(), self.now()) => {
                    let due = self.limiter.due(self.now());
                    self.deliver(due);
                    continue;
                }
            };
            let Some(event) = event else {
                // The last word about each backend, although its minute is not over.
                let held = self.limiter.due(Time(u64::MAX));
                self.deliver(held);
                return;
            };
            let passed = self.limiter.on_event(self.now(), event);
            self.deliver(passed);
        }
    }

    fn now(&self) -> Time {
        time_since(self.started)
    }

    fn deliver(&mut self, passed: Vec<Passed>) {
        for Passed {
            stamped,
            suppressed,
        } in passed
        {
            let text = stamped.event.text();
            let notice = Arc::new(Notice {
                event: stamped.event,
                text,
                suppressed,
                time: humantime::format_rfc3339_millis(stamped.at).to_string(),
                pid: std::process::id(),
                listen: self.listen.clone(),
            });
            for sink in &mut self.sinks {
                if !sink.push(&notice) {
                    self.dropped.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        let dropped = self.dropped.load(Ordering::Relaxed);
        if dropped > self.dropped_logged {
            let count = dropped - self.dropped_logged;
            let text = format!("{count} dropped: those before them take too long to deliver");
            if self.failures.log("queue", &text) {
                self.dropped_logged = dropped;
            }
        }
    }
}

async fn sleep_until(at: Option<Time>, now: Time) {
    match at {
        Some(at) => tokio::time::sleep(Duration::from_nanos(at.0.saturating_sub(now.0))).await,
        None => std::future::pending().await,
    }
}

/// An event on its way out.
#[derive(Debug)]
struct Passed {
    stamped: Stamped,
    suppressed: u64,
}

/// Delivers a few events of each backend in a minute at once, and at the minute's end the newest of each kind
/// that came after them.
#[derive(Debug, Default)]
struct Limiter {
    backends: HashMap<String, Window>,
}

/// A minute of one backend.
#[derive(Debug)]
struct Window {
    started_at: Time,
    events: u32,
    /// One of each kind at the most, oldest first.
    held: Vec<Passed>,
}

impl Limiter {
    /// What is to be delivered now because `stamped` happened.
    fn on_event(&mut self, now: Time, stamped: Stamped) -> Vec<Passed> {
        let mut out = self.due(now);
        let fresh = || Window {
            started_at: now,
            events: 0,
            held: Vec::new(),
        };
        let backend = stamped.event.backend.clone();
        let window = self.backends.entry(backend).or_insert_with(fresh);
        if now.ms_since(window.started_at) >= WINDOW_MS {
            *window = fresh();
        }
        window.events += 1;
        if window.events <= WINDOW_EVENTS_MAX {
            out.push(Passed {
                stamped,
                suppressed: 0,
            });
            return out;
        }
        let same = |held: &Passed| held.stamped.event.kind == stamped.event.kind;
        let suppressed = match window.held.iter().position(same) {
            Some(index) => window.held.remove(index).suppressed + 1,
            None => 0,
        };
        window.held.push(Passed {
            stamped,
            suppressed,
        });
        out
    }

    /// What is to be delivered now because time has passed.
    fn due(&mut self, now: Time) -> Vec<Passed> {
        let mut out = Vec::new();
        for window in self.backends.values_mut() {
            if !window.held.is_empty() && now.ms_since(window.started_at) >= WINDOW_MS {
                window.started_at = now;
                window.events = u32::try_from(window.held.len()).expect("one of each kind");
                out.append(&mut window.held);
            }
        }
        out
    }

    /// When [`Limiter::due`] will have something.
    fn next_at(&self) -> Option<Time> {
        let waiting = self
            .backends
            .values()
            .filter(|window| !window.held.is_empty());
        waiting
            .map(|window| window.started_at.after_ms(WINDOW_MS))
            .min()
    }
}

/// Who hears of events.
#[derive(Clone, Debug)]
enum Sink {
    Command(EventCommand),
    Webhook(Webhook),
}

impl Sink {
    /// For the log.
    fn name(&self) -> String {
        match self {
            Self::Command(_) => "--on-event".to_owned(),
            Self::Webhook(webhook) => format!("--event-webhook {webhook}"),
        }
    }

    async fn deliver(&self, notice: &Notice) -> Result<(), String> {
        match self {
            Self::Command(command) => command.run(notice, DELIVERY_MAX).await,
            Self::Webhook(webhook) => webhook.post(notice.json(), DELIVERY_MAX).await,
        }
    }
}

/// A sink's queues: one delivery at a time in each.
#[derive(Debug)]
struct Lanes {
    lanes: Vec<Sender<Arc<Notice>>>,
    /// Each backend's lane, dealt out in turn.
    dealt: HashMap<String, usize>,
}

impl Lanes {
    fn start(sink: Sink, failures: &Arc<Failures>, tasks: &mut JoinSet<()>) -> Self {
        let sink = Arc::new(sink);
        let lane = |_| {
            let (sender, notices) = channel(LANE_EVENTS_MAX);
            tasks.spawn(lane(Arc::clone(&sink), notices, Arc::clone(failures)));
            sender
        };
        Self {
            lanes: (0..LANES).map(lane).collect(),
            dealt: HashMap::new(),
        }
    }

    /// False if there is no room for it.
    fn push(&mut self, notice: &Arc<Notice>) -> bool {
        let next = self.dealt.len() % LANES;
        let backend = notice.event.backend.clone();
        let index = *self.dealt.entry(backend).or_insert(next);
        self.lanes[index].try_send(Arc::clone(notice)).is_ok()
    }
}

async fn lane(sink: Arc<Sink>, mut notices: Receiver<Arc<Notice>>, failures: Arc<Failures>) {
    let name = sink.name();
    while let Some(notice) = notices.recv().await {
        if let Err(why) = sink.deliver(&notice).await {
            let event = notice.event.kind.name();
            let backend = &notice.event.backend;
            failures.log(&name, &format!("{event} of backend {backend}: {why}"));
        }
    }
}

/// Says in the log what did not work, not too often.
#[derive(Debug)]
struct Failures {
    started: Instant,
    limiter: Mutex<RateLimiter<String>>,
}

impl Failures {
    fn new() -> Self {
        Self {
            started: Instant::now(),
            limiter: Mutex::new(RateLimiter::new(FAILURES_LOGGED_PER_MINUTE, 60_000)),
        }
    }

    /// Whether it was logged.
    fn log(&self, about: &str, text: &str) -> bool {
        let now = time_since(self.started);
        let mut limiter = self.limiter.lock().unwrap_or_else(PoisonError::into_inner);
        match limiter.on_event(now, about.to_owned()) {
            Verdict::Log { suppressed: 0 } => tracing::warn!("events: {about}: {text}"),
            Verdict::Log { suppressed } => {
                tracing::warn!(
                    "events: {about}: {text} ({suppressed} more like it were not logged)"
                );
            }
            Verdict::Suppress => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use EventKind::{Down, Healed, Overflow, Returned};

    use super::*;

    /// Longer than anything takes here, on any machine.
    const LONG: Duration = Duration::from_secs(60);

    pub(super) fn event(kind: EventKind, backend: &str) -> Event {
        Event::new(kind, backend, vec![Role::Primary])
    }

    pub(super) fn notice() -> Notice {
        let event = Event {
            roles: vec![Role::Primary, Role::Backup],
            reason: Some("it said \"no\"\nand $(left) 'us'".to_owned()),
            downtime_ms: Some(1_500),
            remembered_keys: Some(7),
            ..event(Down, "10.0.0.4:11211")
        };
        Notice {
            text: event.text(),
            event,
            suppressed: 2,
            time: "2026-01-02T03:04:05.678Z".to_owned(),
            pid: 4242,
            listen: "0.0.0.0:11211".to_owned(),
        }
    }

    pub(super) fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    }

    fn appending(path: &Path) -> EventOptions {
        let path = path.display();
        let line = format!("echo \"$MAGENT_EVENT $MAGENT_BACKEND $MAGENT_SUPPRESSED\" >> '{path}'");
        EventOptions {
            command: Some(EventCommand::new(line)),
            webhook: None,
            listen: "0.0.0.0:11211".to_owned(),
        }
    }

    #[test]
    fn the_form_of_a_notice_is_an_interface() {
        let expected = concat!(
            r#"{"event":"down","backend":"10.0.0.4:11211","roles":["primary","backup"],"#,
            r#""reason":"it said \"no\"\nand $(left) 'us'","downtime_ms":1500,"remembered_keys":7,"#,
            r#""healed_items":null,"healed_bytes":null,"#,
            r#""text":"backend 10.0.0.4:11211 is down: it said \"no\"\nand $(left) 'us'","#,
            r#""suppressed":2,"time":"2026-01-02T03:04:05.678Z","pid":4242,"listen":"0.0.0.0:11211"}"#,
        );
        assert_eq!(notice().json(), expected);
    }

    #[test]
    fn a_sentence_for_people() {
        let check = |event: &Event, text: &str| assert_eq!(event.text(), text);
        check(&event(Down, "a:1"), "backend a:1 is down");
        check(
            &Event {
                reason: Some("connection refused".to_owned()),
                ..event(Down, "a:1")
            },
            "backend a:1 is down: connection refused",
        );
        let after = Event {
            downtime_ms: Some(2_500),
            ..event(Returned, "a:1")
        };
        check(&after, "backend a:1 is back after 2.5s");
        check(
            &Event {
                kind: Healed,
                ..after
            },
            "backend a:1 is in step again after 2.5s",
        );
        check(
            &event(Overflow, "a:1"),
            "backend a:1 missed more writes than are remembered",
        );
    }

    /// What a limiter lets through, as kinds with the numbers of those left out.
    fn kinds(passed: Vec<Passed>) -> Vec<(EventKind, u64)> {
        let kind = |passed: Passed| (passed.stamped.event.kind, passed.suppressed);
        passed.into_iter().map(kind).collect()
    }

    #[test]
    fn a_flapping_backend_is_told_about_now_and_then() {
        const AT: fn(u64) -> Time = |ms| Time(ms * 1_000_000);
        let mut limiter = Limiter::default();
        let mut on = |ms, kind, backend| {
            let at = SystemTime::UNIX_EPOCH;
            let event = event(kind, backend);
            let passed = limiter.on_event(AT(ms), Stamped { event, at });
            (kinds(passed), limiter.next_at())
        };
        for ms in 0..6 {
            assert_eq!(on(ms, Down, "a"), (vec![(Down, 0)], None));
            assert_eq!(on(ms, Returned, "a"), (vec![(Returned, 0)], None));
        }
        let end = Some(AT(60_000));
        assert_eq!(on(10, Down, "a"), (vec![], end));
        assert_eq!(on(11, Returned, "a"), (vec![], end));
        assert_eq!(on(12, Down, "b"), (vec![(Down, 0)], end), "another backend");
        assert_eq!(on(13, Down, "a"), (vec![], end));
        assert_eq!(on(14, Down, "a"), (vec![], end));
        assert_eq!(kinds(limiter.due(AT(59_999))), []);
        let last = kinds(limiter.due(AT(60_000)));
        assert_eq!(last, [(Returned, 0), (Down, 2)], "in order of time");
        assert_eq!(limiter.next_at(), None);
        assert_eq!(kinds(limiter.due(AT(60_001))), []);
        // Those two count in the minute that began with them.
        let mut on = |ms| {
            let at = SystemTime::UNIX_EPOCH;
            let event = event(Down, "a");
            kinds(limiter.on_event(AT(ms), Stamped { event, at }))
        };
        for _ in 0..10 {
            assert_eq!(on(119_999), [(Down, 0)]);
        }
        assert_eq!(on(119_999), []);
        assert_eq!(on(120_000), [(Down, 0), (Down, 0)], "the held one first");
        assert_eq!(on(500_000), [(Down, 0)]);
    }

    #[test]
    fn events_of_a_backend_arrive_in_order_whoever_is_slow() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        runtime().block_on(async {
            let events = Events::start(appending(&path));
            for backend in ["a", "b", "c", "d", "e", "f"] {
                for kind in [Down, Returned, Healed] {
                    events.emit(event(kind, backend));
                }
            }
            assert_eq!(events.dropped(), 0);
            events.finish(LONG).await;
        });
        let text = fs::read_to_string(&path).unwrap();
        for backend in ["a", "b", "c", "d", "e", "f"] {
            let of_backend: Vec<_> = text
                .lines()
                .filter_map(|line| line.strip_suffix(&format!(" {backend} 0")))
                .collect();
            assert_eq!(of_backend, ["down", "returned", "healed"], "{backend}");
        }
        assert_eq!(text.lines().count(), 18);
    }

    #[test]
    fn the_last_word_is_delivered_at_the_end_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        runtime().block_on(async {
            let events = Events::start(appending(&path));
            for _ in 0..10 {
                events.emit(event(Down, "a"));
                events.emit(event(Returned, "a"));
            }
            events.finish(LONG).await;
        });
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 14, "{text}");
        assert_eq!(lines[12..], ["down a 3", "returned a 3"]);
    }

    /// The dispatcher never runs here, so the queue fills up.
    #[test]
    fn what_does_not_fit_is_dropped_and_counted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        runtime().block_on(async {
            let events = Events::start(appending(&path));
            for _ in 0..QUEUE_EVENTS_MAX + 3 {
                events.emit(event(Down, "a"));
            }
            assert_eq!(events.dropped(), 3);
        });
    }

    #[test]
    fn nobody_listens_nothing_happens() {
        runtime().block_on(async {
            let events = Events::start(EventOptions::default());
            for _ in 0..QUEUE_EVENTS_MAX + 3 {
                events.emit(event(Down, "a"));
            }
            assert_eq!(events.dropped(), 0);
            events.finish(LONG).await;
        });
    }

    #[test]
    fn the_end_does_not_wait_for_a_slow_command() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let line = format!("echo $$ > '{}'; exec sleep 1000", path.display());
        let options = EventOptions {
            command: Some(EventCommand::new(line)),
            ..EventOptions::default()
        };
        let started = Instant::now();
        let pid = runtime().block_on(async {
            let events = Events::start(options);
            events.emit(event(Down, "a"));
            let pid = loop {
                let text = fs::read_to_string(&path).unwrap_or_default();
                if let Some(pid) = text.strip_suffix('\n') {
                    break pid.parse().unwrap();
                }
                assert!(started.elapsed() < LONG, "the command does not start");
                tokio::task::yield_now().await;
            };
            events.finish(Duration::from_millis(10)).await;
            pid
        });
        assert!(started.elapsed() < LONG);
        // It goes on without us, until its own end or this.
        let pid = nix::unistd::Pid::from_raw(pid);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    }
}
