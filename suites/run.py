#!/usr/bin/env python3
"""Runs real clients' suites against one memcached and through the proxy, and compares.

    suites/run.py                   every suite
    suites/run.py pymemcache dalli  some of them; --list names them

A suite passes if the same cases pass in both runs, but for those that explained.toml explains, and
if nothing is explained there that need not be. What the suites printed is kept in <cache>/logs, in
SUITE.direct.log and SUITE.through.log.

The last line is in the form of cargo's own tests, one test per suite; exits 1 if one failed.
"""

import argparse
import concurrent.futures
import os
import shutil
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

from install import Cache
from servers import Process, Servers
from suites import all_suites

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
# Suites wait more than they work: for items to expire, for locks.
JOBS = 4


@dataclass
class Run:
    """What one suite did against one kind of server."""

    cases: dict[str, str]
    complaints: list[str]
    seconds: float

    @property
    def passing(self):
        return {name for name, outcome in self.cases.items() if outcome == "pass"}

    def counts(self):
        ran = sum(outcome != "skip" for outcome in self.cases.values())
        return f"{len(self.passing)}/{ran}"


def run_suite(suite, magent, limit, log):
    """Runs it through the binary `magent` or, if that is None, against a memcached."""
    started_at = time.monotonic()
    complaints = []
    status = None
    log.write_bytes(b"")
    servers = Servers(suite.ports, suite.with_socket, magent)
    # Appending, since php sets the place to write at back.
    with servers as target, open(log, "ab") as output:
        places = {"host": target.host, "port": target.port}
        places |= {"socket": target.socket, "dir": target.dir}
        for copy in suite.copies:
            copy_files(copy, target.dir, places)
        command = [filled(part, places) for part in suite.command]
        env = os.environ | {name: filled(value, places) for name, value in suite.env.items()}
        with Process(command, cwd=target.dir, env=env, stdout=output, stderr=output) as process:
            try:
                status = process.child.wait(limit)
            except subprocess.TimeoutExpired:
                complaints.append(f"ended after {limit} s, its limit")
        complaints += servers.complaints()
    cases = suite.read(log.read_text(errors="replace"))
    if status not in (0, None) and "fail" not in cases.values():
        complaints.append(f"ended with status {status}, though no case failed")
    return Run(cases, complaints, time.monotonic() - started_at)


def filled(text, places):
    for name, value in places.items():
        text = str(text).replace(f"{{{name}}}", str(value))
    return text


def copy_files(copy, directory, places):
    goal = directory / copy.name
    goal.parent.mkdir(parents=True, exist_ok=True)
    if copy.source.is_file():
        shutil.copy(copy.source, goal)
        return
    shutil.copytree(copy.source, goal)
    for old, new in copy.replace.items():
        holders = [path for path in goal.rglob("*") if holds(path, old)]
        # What is not there any more has changed its name, and the suite would not find its server.
        assert holders, f"{copy.source} has no {old}"
        for path in holders:
            path.write_text(path.read_text().replace(old, filled(new, places)))


def holds(path, text):
    return path.is_file() and text.encode() in path.read_bytes()


def failing(direct, through):
    """Each case that fails somewhere, with where: "both", "direct" or "through"."""
    places = {}
    for name in sorted(direct.cases | through.cases):
        passes = (name in direct.passing, name in through.passing)
        outcomes = (direct.cases.get(name), through.cases.get(name))
        if outcomes != ("skip", "skip") and passes != (True, True):
            places[name] = {(False, False): "both", (False, True): "direct"}.get(passes, "through")
    return places


def problems(suite, direct, through, explained):
    """What is wrong with the two runs: a list of lines."""
    found = [f"directly: {line}" for line in direct.complaints]
    found += [f"through the proxy: {line}" for line in through.complaints]
    if len(direct.passing) < suite.passing:
        found.append(f"{len(direct.passing)} cases pass directly, expected {suite.passing}")
    expected = {
        case: entry["fails"]
        for entry in explained
        if entry["suite"] == suite.name
        for case in entry["cases"]
    }
    seen = failing(direct, through)
    for name in sorted(seen | expected):
        if seen.get(name) == expected.get(name):
            continue
        if name not in expected:
            found.append(f"fails {WORDS[seen[name]]}: {name}")
        elif name not in seen:
            found.append(f"explained, but does not fail: {name}")
        else:
            found.append(f"fails {WORDS[seen[name]]}, explained as {WORDS[expected[name]]}: {name}")
    return found


WORDS = {"both": "both times", "direct": "directly alone", "through": "through the proxy alone"}


def run_twice(suite, magent, logs, notes):
    """Both runs of a suite: its line of the table, and its problems."""
    direct = run_suite(suite, None, suite.limit, logs / f"{suite.name}.direct.log")
    through = run_suite(suite, magent, suite.limit, logs / f"{suite.name}.through.log")
    found = problems(suite, direct, through, notes.get("explained", []))
    verdict = "FAILED" if found else "ok"
    row = f"{suite.name:<31}{direct.counts():>9}{through.counts():>9}"
    return f"{row}{direct.seconds:>7.1f} s{through.seconds:>7.1f} s  {verdict}", found


def misnamed(suites, notes):
    """Explanations that belong to no suite."""
    names = {suite.name for suite in suites}
    strange = {entry["suite"] for entry in notes.get("explained", [])} - names
    return [f"explained.toml: there is no suite {name}" for name in sorted(strange)]


def main():
    parser = argparse.ArgumentParser(
        description="Real clients' suites, directly and through magent."
    )
    parser.add_argument("suites", nargs="*", metavar="SUITE", help="all by default")
    parser.add_argument("--list", action="store_true", help="name the suites")
    parser.add_argument("--magent", type=Path, default=ROOT / "target/debug/magent")
    parser.add_argument("--cache", type=Path, default=ROOT / "target/suites")
    args = parser.parse_args()
    cache = Cache(args.cache.resolve())
    logs = cache.root / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    cache.install(logs / "install.log")
    suites = list(all_suites(cache))
    if args.list:
        print(*(suite.name for suite in suites), sep="\n")
        return 0
    notes = tomllib.loads((HERE / "explained.toml").read_text())
    unknown = set(args.suites) - {suite.name for suite in suites}
    if unknown:
        parser.error(f"no suite {', '.join(sorted(unknown))}; --list names them")
    mistakes = misnamed(suites, notes)
    chosen = [suite for suite in suites if not args.suites or suite.name in args.suites]
    return report(chosen, args.magent.resolve(), logs, notes, mistakes)


def report(suites, magent, logs, notes, mistakes):
    """Runs `suites` side by side and prints their table; the exit status."""
    print(f"{'suite':<31}{'direct':>9}{'through':>9}", flush=True)
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(JOBS) as pool:
        runs = [pool.submit(run_twice, suite, magent, logs, notes) for suite in suites]
        for run in runs:
            row, found = run.result()
            failed += bool(found)
            print(row, *(f"    {line}" for line in found), sep="\n", flush=True)
    print(*mistakes, sep="\n", end="\n" if mistakes else "")
    failed += bool(mistakes)
    verdict = "FAILED" if failed else "ok"
    passed = len(suites) + bool(mistakes) - failed
    print(f"test result: {verdict}. {passed} passed; {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
