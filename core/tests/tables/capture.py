#!/usr/bin/env python3
"""Asks a real memcached every request of the tables and writes its answers beneath.

    ./capture.py                  all tables, with the memcached in PATH
    ./capture.py get.txt          this one
    MEMCACHED=/opt/m/memcached ./capture.py --check   compare only, exit 1 on a difference

See README.md for the format.
"""

import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MEMCACHED = os.environ.get("MEMCACHED", "memcached")
RUN = 40  # Equal bytes in a row from which they are written as {count*byte}.
SENTINEL, SENTINEL_ANSWER = b"mn\r\n", b"MN\r\n"


def unescape(text: str) -> bytes:
    def run(match):
        return match.group(2) * int(match.group(1))

    text = re.sub(r"\{(\d+)\*(.)\}", run, text)
    return text.encode("latin-1").decode("unicode_escape").encode("latin-1")


def escape(raw: bytes) -> str:
    names = {0x0A: "\\n", 0x0D: "\\r", 0x09: "\\t", 0x5C: "\\\\"}
    text = "".join(
        names.get(b) or (chr(b) if 0x20 <= b < 0x7F and b != 0x7B else f"\\x{b:02x}") for b in raw
    )
    return re.sub(
        r"([!-~])\1{%d,}" % (RUN - 1), lambda m: "{%d*%s}" % (len(m.group(0)), m.group(1)), text
    )


class Memcached:
    def __init__(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.log, self.log_read = tempfile.TemporaryFile(), 0
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        self.process = subprocess.Popen(
            [MEMCACHED, *user, "-l", "127.0.0.1", "-p", str(self.port), "-U", "0", "-t", "1", "-vv"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self.log,
        )
        deadline = time.monotonic() + 5
        while True:
            try:
                self.ask(b"")
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise

    def stop(self):
        self.process.terminate()
        self.process.wait()

    def hidden(self):
        """What `noreply` has hidden since the last call, from the verbose log."""
        # Not read(): memcached writes where our position in the file is.
        log = os.pread(self.log.fileno(), 1 << 30, self.log_read)
        self.log_read += len(log)
        return re.findall(rb"^>\d+ NOREPLY (.*)$", log, re.M)

    def ask(self, request):
        """The answer to `request`, and what happened: "closed", "waits", or nothing special."""
        answer = b""
        whole = request.endswith(b"\n") or not request
        with socket.create_connection(("127.0.0.1", self.port), timeout=3 if whole else 0.5) as conn:
            try:
                conn.sendall(request + SENTINEL if whole else request)
                while not answer.endswith(SENTINEL_ANSWER):
                    chunk = conn.recv(1 << 16)
                    if not chunk:
                        return answer, "closed"
                    answer += chunk
            except ConnectionError:
                return answer, "closed"
            except TimeoutError:
                return answer, "waits"
        return answer[: -len(SENTINEL_ANSWER)], ""


def capture(path: Path) -> str:
    memcached, setup, out = Memcached(), b"", []
    try:
        for line in path.read_text().splitlines():
            mark, _, rest = line.partition(" ")
            if mark in ("<", "~", "*"):
                continue
            out.append(line)
            if mark == "=":
                setup = unescape(rest)
            if mark != ">":
                continue
            memcached.ask(b"flush_all\r\nverbosity 2\r\n" + setup)
            memcached.hidden()
            answer, end = memcached.ask(unescape(rest))
            if answer:
                out.append("< " + escape(answer))
            out += ["~ " + escape(line) for line in memcached.hidden()]
            if end:
                out.append("* " + end)
    finally:
        memcached.stop()
    return "\n".join(out) + "\n"


def main():
    args = sys.argv[1:]
    check = "--check" in args
    here = Path(__file__).parent
    names = [arg for arg in args if arg != "--check"] or sorted(p.name for p in here.glob("*.txt"))
    differs = False
    for name in names:
        path = here / name
        text = capture(path)
        if check:
            differs |= text != path.read_text()
            if text != path.read_text():
                print(f"{name} differs")
        else:
            path.write_text(text)
    sys.exit(differs)


if __name__ == "__main__":
    main()
