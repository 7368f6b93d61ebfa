//! Stores a workload's keys through its target before anything is measured.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustls::StreamOwned;

use crate::interrupt;
use crate::keys::{Keys, Share};
use crate::tls;
use crate::wire::{Answer, Checker, Command, Request};
use crate::workload::{Transport, Workload};

/// Stores the keys of `workload`, each at the target that the generator will ask for it.
pub(crate) fn preload(workload: &Workload, targets: &[SocketAddr]) -> Result<()> {
    let keys = Keys::new(workload.key_count, workload.value_len);
    let parts = u32::try_from(targets.len())?;
    for (part, target) in (0..parts).zip(targets) {
        let share = Share::new(&keys, part, parts);
        store(&keys, share, *target, workload.transport)
            .with_context(|| format!("store the keys of {} through {target}", workload.name))?;
    }
    Ok(())
}

/// Stores the keys of `share` in batches: one answer at a time would take seconds.
fn store(keys: &Keys, share: Share, target: SocketAddr, transport: Transport) -> Result<()> {
    let stream = TcpStream::connect_timeout(&target, ANSWER_MAX)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    stream.set_write_timeout(Some(ANSWER_MAX))?;
    match transport {
        Transport::Plain => store_on(stream, keys, share),
        Transport::Tls => store_on(StreamOwned::new(tls::connection()?, stream), keys, share),
    }
}

fn store_on(mut stream: impl Read + Write, keys: &Keys, share: Share) -> Result<()> {
    let mut out = Vec::new();
    let mut batch = Vec::new();
    for nth in share.all() {
        let request = Request::new(Command::Set, nth, 1, 0);
        request.encode(keys, share, &mut out);
        batch.push(request);
        if out.len() >= BATCH_LEN || batch.len() >= BATCH_REQUESTS_MAX {
            stream.write_all(&out)?;
            await_stored(&mut stream, keys, share, &mut batch)?;
            out.clear();
            interrupt::check()?;
        }
    }
    stream.write_all(&out)?;
    await_stored(&mut stream, keys, share, &mut batch)
}

fn await_stored(
    stream: &mut impl Read,
    keys: &Keys,
    share: Share,
    batch: &mut Vec<Request>,
) -> Result<()> {
    let mut checker = Checker::default();
    let mut buffer = [0; 4_096];
    let mut bytes: &[u8] = &[];
    for mut request in batch.drain(..) {
        loop {
            let (used, answer) = checker.check(keys, share, &mut request, bytes)?;
            bytes = &bytes[used..];
            match answer {
                Some(Answer::Stored) => break,
                Some(other) => bail!("a set was answered {other:?}"),
                None => {
                    let count = stream.read(&mut buffer).context("wait for STORED")?;
                    ensure!(count > 0, "closed by the peer");
                    bytes = &buffer[..count];
                }
            }
        }
    }
    Ok(())
}

/// Longest wait for an answer; a proxy that cannot store cannot be measured.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// A batch is sent when it has this many bytes: its answers always fit the socket's buffers.
const BATCH_LEN: usize = 64 << 10;

/// Requests in a batch, so that a proxy that answers slowly stays within `ANSWER_MAX`.
const BATCH_REQUESTS_MAX: usize = 200;
