//! `magent route`: where keys go by the list of servers, whatever their health.

use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead, BufWriter, ErrorKind, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use magent_core::BackendId;
use magent_core::config::Config;
use magent_core::placement::{BackupChoice, Placement, Route};
use magent_core::scheme::Ring;
use magent_core::server::ServerSpec;

use crate::options::{RouteOptions, RouteOutput};

/// Prints what the options ask for.
pub(crate) fn run(options: &RouteOptions) -> Result<ExitCode> {
    let stdout = BufWriter::new(io::stdout().lock());
    match write(options, io::stdin().lock(), stdout) {
        // A reader that has seen enough, as in `| head`.
        Err(err) if is_broken_pipe(&err) => Ok(ExitCode::SUCCESS),
        done => done.map(|()| ExitCode::SUCCESS),
    }
}

fn is_broken_pipe(err: &anyhow::Error) -> bool {
    err.downcast_ref::<io::Error>()
        .is_some_and(|err| err.kind() == ErrorKind::BrokenPipe)
}

fn write(options: &RouteOptions, stdin: impl BufRead, out: impl Write) -> Result<()> {
    let placement = Placement::new(&options.config);
    let keys = Keys {
        args: &options.keys,
        stdin,
    };
    match options.output {
        RouteOutput::Text => write_text(&options.config, &placement, keys, out),
        RouteOutput::Csv => write_csv(&placement, keys, out),
        RouteOutput::Summary => write_summary(&options.config, &placement, keys, out),
    }
}

/// The keys of the command line, those of standard input in the place of `-`.
struct Keys<'a, R> {
    args: &'a [OsString],
    stdin: R,
}

impl<R: BufRead> Keys<'_, R> {
    fn for_each(mut self, mut on_key: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        for arg in self.args {
            if arg == OsStr::new("-") {
                let mut line = Vec::new();
                while self
                    .stdin
                    .read_until(b'\n', &mut line)
                    .context("standard input")?
                    > 0
                {
                    let key = line.strip_suffix(b"\n").unwrap_or(&line);
                    let key = key.strip_suffix(b"\r").unwrap_or(key);
                    // memcached knows no empty key, so this is an empty line.
                    if !key.is_empty() {
                        on_key(key)?;
                    }
                    line.clear();
                }
            } else {
                on_key(arg.as_bytes())?;
            }
        }
        Ok(())
    }
}

fn write_csv(placement: &Placement, keys: Keys<'_, impl BufRead>, out: impl Write) -> Result<()> {
    let mut csv = csv::WriterBuilder::new()
        .terminator(csv::Terminator::CRLF)
        .from_writer(out);
    csv.write_record(["key", "primary_index", "backup_index"])
        .map_err(io::Error::from)?;
    keys.for_each(|key| {
        let Route {
            primary_index,
            backup_index,
            ..
        } = placement.route(key);
        let primary = primary_index.to_string();
        let backup = backup_index
            .map(|index| index.to_string())
            .unwrap_or_default();
        let record = [key, primary.as_bytes(), backup.as_bytes()];
        csv.write_record(record).map_err(io::Error::from)?;
        Ok(())
    })?;
    csv.flush()?;
    Ok(())
}

/// Columns as wide as the widest server; keys come last, because their width is not known.
fn write_text(
    config: &Config,
    placement: &Placement,
    keys: Keys<'_, impl BufRead>,
    mut out: impl Write,
) -> Result<()> {
    let primaries = Column::new("PRIMARY", &config.primaries);
    let backups = Column::new("BACKUP", &config.backups);
    let lock_keys = &config.scheme_options.lock_keys;
    let moved_from = can_move(config, placement).then(|| Column::new(MOVED_FROM, &config.backups));
    let head = moved_from.as_ref().map(|column| column.pad(column.title));
    let mut line = |primary: &str, backup: &str, moved_from: Option<String>, key: &str| {
        let (primary, backup) = (primaries.pad(primary), backups.pad(backup));
        let moved_from = moved_from.map(|text| text + "  ").unwrap_or_default();
        writeln!(out, "{primary}  {backup}  {moved_from}{key}")
    };
    line(primaries.title, backups.title, head, "KEY")?;
    keys.for_each(|key| {
        let route = placement.route(key);
        let primary = &primaries.names[route.primary_index];
        let moved_from = moved_from
            .as_ref()
            .map(|column| column.pad(column.name(moved(placement, key, route))));
        let data_key = lock_keys.data_key(key);
        let mut text = key.escape_ascii().to_string();
        if *data_key != *key {
            text = format!("{text}  (placed as {})", data_key.escape_ascii());
        }
        line(primary, backups.name(route.backup_index), moved_from, &text)?;
        Ok(())
    })?;
    out.flush()?;
    Ok(())
}

/// The title of the column that is only there if backups can be moved.
const MOVED_FROM: &str = "MOVED FROM";

/// A column of servers.
struct Column {
    title: &'static str,
    names: Vec<String>,
    width: usize,
}

impl Column {
    fn new(title: &'static str, servers: &[ServerSpec]) -> Self {
        let names: Vec<_> = servers.iter().map(label).collect();
        let widths = names.iter().map(String::len);
        Self {
            title,
            width: widths.fold(title.len(), usize::max),
            names,
        }
    }

    fn name(&self, index: Option<usize>) -> &str {
        index.map_or("-", |index| &self.names[index])
    }

    fn pad(&self, text: &str) -> String {
        format!("{text:width$}", width = self.width)
    }
}

/// Whether any key can have another backup than the scheme names.
fn can_move(config: &Config, placement: &Placement) -> bool {
    config.has_backups()
        && (0..config.primaries.len())
            .any(|index| placement.backup_choice(index) != BackupChoice::All)
}

/// The backup that the scheme names, if the key has another one.
fn moved(placement: &Placement, key: &[u8], route: Route) -> Option<usize> {
    let by_scheme = placement.backup_by_scheme(key);
    by_scheme.filter(|_| by_scheme != route.backup_index)
}

fn label(server: &ServerSpec) -> String {
    match server.name() {
        Some(name) => format!("{name}={}", server.address()),
        None => server.address().to_string(),
    }
}

fn is_on_one_host(config: &Config, route: Route) -> bool {
    let address = |id: BackendId| &config.backends[id.index()];
    route
        .backup
        .is_some_and(|backup| address(backup).same_host(address(route.primary)))
}

/// Length of the longest bar.
const BAR_LEN: u64 = 40;

fn write_summary(
    config: &Config,
    placement: &Placement,
    keys: Keys<'_, impl BufRead>,
    mut out: impl Write,
) -> Result<()> {
    let mut primaries = vec![0; config.primaries.len()];
    let mut backups = vec![0; config.backups.len()];
    let (mut total, mut moved_keys, mut same_host_keys) = (0, 0, 0);
    keys.for_each(|key| {
        let route = placement.route(key);
        total += 1;
        moved_keys += u64::from(moved(placement, key, route).is_some());
        same_host_keys += u64::from(is_on_one_host(config, route));
        primaries[route.primary_index] += 1;
        if let Some(index) = route.backup_index {
            backups[index] += 1;
        }
        Ok(())
    })?;
    writeln!(out, "{total} keys, scheme {}", config.scheme)?;
    write_shares("primaries", config, &config.primaries, &primaries, &mut out)?;
    if config.has_backups() {
        write_shares("backups", config, &config.backups, &backups, &mut out)?;
    }
    for (count, what) in [
        (
            moved_keys,
            "have another backup than the scheme names, off their primary's host",
        ),
        (same_host_keys, "have both copies on one host"),
    ] {
        if count > 0 {
            writeln!(
                out,
                "\n{count} keys ({:.1} %) {what}",
                percent(count, total)
            )?;
        }
    }
    out.flush()?;
    Ok(())
}

fn write_shares(
    title: &str,
    config: &Config,
    servers: &[ServerSpec],
    counts: &[u64],
    out: &mut impl Write,
) -> Result<()> {
    let ring = Ring::new(config.scheme, &config.scheme_options, servers)?;
    let fair_total: f64 = ring.fair_weights().iter().sum();
    let total: u64 = counts.iter().sum();
    let most = counts.iter().copied().max().unwrap_or_default().max(1);
    let names: Vec<_> = servers.iter().map(label).collect();
    let width = names
        .iter()
        .map(String::len)
        .max()
        .unwrap_or_default()
        .max(title.len());
    writeln!(
        out,
        "\n{title:width$}  {:>10}  {:>7}  {:>7}",
        "keys", "share", "fair"
    )?;
    for ((name, &count), fair) in names.iter().zip(counts).zip(ring.fair_weights()) {
        let share = percent(count, total);
        let fair = fair / fair_total * 100.0;
        let bar = "#".repeat(usize::try_from(count * BAR_LEN / most).unwrap_or_default());
        let line = format!("{name:width$}  {count:>10}  {share:>5.1} %  {fair:>5.1} %  {bar}");
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

fn percent(part: u64, total: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "it is printed with one digit")]
    let (part, total) = (part as f64, total.max(1) as f64);
    part / total * 100.0
}
