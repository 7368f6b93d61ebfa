//! What the control thread waits for.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use magent_core::BackendId;
use magent_core::keeper::{Failure, ProbeAnswer};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::healing;
use crate::ledger::Written;
use crate::worker::FromWorker;

/// Something for the control thread.
pub(super) enum Event {
    Worker(FromWorker),
    Healing(healing::Event),
    Found(Found),
    /// A moment that something waits for has come.
    Due,
    /// `drain_ms` are over.
    DrainOver,
    /// A signal of this name asks for the end.
    Terminate(&'static str),
    HangUp,
}

/// What reaches the control thread from its own tasks.
#[derive(Debug)]
pub(super) enum Found {
    Probe(BackendId, Result<ProbeAnswer, Failure>),
    Written(Box<Written>),
}

/// Where events come from.
pub(super) struct Sources {
    workers: UnboundedReceiver<FromWorker>,
    healing: healing::Events,
    found: UnboundedReceiver<Found>,
    end: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Sources {
    /// From now on signals are caught.
    pub(super) fn new(
        workers: UnboundedReceiver<FromWorker>,
        healing: healing::Events,
        found: UnboundedReceiver<Found>,
    ) -> Result<Self> {
        Ok(Self {
            workers,
            healing,
            found,
            end: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// The next event, at the latest when `wait` is over.
    pub(super) async fn next(
        &mut self,
        wait: Option<Duration>,
        drained_by: Option<Instant>,
    ) -> Result<Event> {
        Ok(tokio::select! {
            message = self.workers.recv() => {
                Event::Worker(message.ok_or_else(|| anyhow!("the workers are gone"))?)
            }
            Some(event) = self.healing.recv() => Event::Healing(event),
            Some(found) = self.found.recv() => Event::Found(found),
            () = sleep_for(wait) => Event::Due,
            () = sleep_until(drained_by) => Event::DrainOver,
            _ = self.end.recv() => Event::Terminate("SIGTERM"),
            _ = self.interrupt.recv() => Event::Terminate("SIGINT"),
            _ = self.hang_up.recv() => Event::HangUp,
        })
    }
}

/// For ever, without a duration.
pub(crate) async fn sleep_for(duration: Option<Duration>) {
    match duration {
        Some(duration) => tokio::time::sleep(duration).await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
