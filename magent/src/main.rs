//! magent: a high-availability proxy for memcached.
//!
//! This file is the table of contents: what happens from the command line to the event loop, in
//! order, and with which exit status it ends.

mod auth;
mod changes;
mod cli;
mod control;
mod daemon;
mod demo;
mod dial;
mod events;
mod fence;
mod healing;
mod ledger;
mod listen;
mod log;
mod options;
mod probe;
mod route;
mod stall;
mod state;
mod sys;
mod tls;
mod worker;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;

use crate::auth::Secrets;
use crate::cli::Action;
use crate::daemon::{Detaching, PidFile, Side};
use crate::options::{Mode, Options, StateDir};
use crate::sys::{Assumed, HeldSignals, Room};
use crate::tls::Tls;

/// The start or the run failed. Success is 0; a wrong command line is 2, as with every Unix program
/// that distinguishes the two.
const EXIT_FAILURE: u8 = 1;

fn main() -> ExitCode {
    let done = match cli::parse(std::env::args_os()) {
        Ok(Action::Serve(options)) => serve(*options),
        Ok(Action::Demo(options)) => demo::start(&options).and_then(serve),
        Ok(Action::Route(options)) => route::run(&options),
        Ok(Action::Passwd(options)) => auth::passwd::run(&options),
        Ok(Action::Print(text)) => cli::print(&text),
        Err(err) => return err.report(),
    };
    done.unwrap_or_else(|err| {
        log::last_words(format_args!("{err:#}"));
        ExitCode::from(EXIT_FAILURE)
    })
}

/// The proxy, from here to its end.
fn serve(mut options: Options) -> Result<ExitCode> {
    let detaching = match options.run.mode {
        Mode::Foreground => None,
        Mode::Background => match daemon::split()? {
            Side::Parent(outcome) => return Ok(outcome),
            Side::Child(detaching) => Some(detaching),
        },
    };
    let run = &options.run;
    let instead = log::init(&run.log, run.verbosity, &run.identity)?;
    let signals = HeldSignals::hold()?;
    let room = options.open_files().reserve()?;
    // Before anyone can connect: whoever waits for the port finds the file.
    let _pid_file = run.pid_file.as_deref().map(PidFile::create).transpose()?;
    // As root, if it is root: keys may be for nobody else to read.
    let tls = Tls::load(&options.tls, &options.config)?;
    let listeners = listen::listeners(&options.listen, options.config.workers, &run.identity)?;
    let state_dir = run.state_dir.create(&run.identity);
    let assumed = run.identity.assume()?;

    let mut notices = std::mem::take(&mut options.notices);
    let secrets = Secrets::load(&options.run, &mut notices)?;
    options.config.users = secrets
        .users
        .as_ref()
        .map(|table| Arc::clone(table.users()));
    notices.extend(tls.notices());
    // Only the user that the process has become knows what it can write.
    match state_dir.and_then(|()| options.run.state_dir.check()) {
        Ok(()) => {}
        // Nobody asked for it, and without backups there is no copy to fall behind.
        Err(_) if options.run.state_dir == StateDir::Default && !options.config.has_backups() => {}
        Err(err) => notices.push(StateDir::notice(&err)),
    }
    if let Room::For { clients, notice } = room {
        options.config.limits.clients_max = clients;
        notices.push(notice);
    }
    if let Some(path) = instead {
        notices.push(format!(
            "nothing listens on /dev/log, so the log is {}; --log-file chooses another",
            path.display()
        ));
    }
    match assumed {
        Assumed::Done => {}
        Assumed::StillRoot => notices.push("running as root; -u gives that up".to_owned()),
        Assumed::NotRoot => {
            notices.push("only root can change to the user of -u and the group of -g".to_owned());
        }
    }
    announce(&options, &notices, detaching.as_ref());
    let _socket_files = listeners.socket_files;
    let ready = || {
        signals.release()?;
        detaching.map_or(Ok(()), Detaching::ready)
    };
    control::run(options, secrets, listeners.per_worker, tls, ready)?;
    Ok(ExitCode::SUCCESS)
}

/// Says what the operator should hear: in the log, and while there is a terminal, there too.
fn announce(options: &Options, notices: &[String], detaching: Option<&Detaching>) {
    tracing::info!(
        "magent {} starts: {}",
        env!("CARGO_PKG_VERSION"),
        options.summary()
    );
    for notice in notices {
        tracing::warn!("{notice}");
        if detaching.is_some() {
            log::tell(notice);
        }
    }
}
