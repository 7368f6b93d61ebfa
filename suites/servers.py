"""What a suite talks to: one memcached, or the proxy in front of five of them.

Everything started here is ended by its own pid, and by the kernel if this process dies first.
Every run has a loopback address of its own, so suites that insist on a port can have it, and runs
go on side by side.
"""

import os
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

# Longest wait for a server to listen. Far above what is expected, so that only a hang meets it.
START_S = 30
PRIMARIES = 3
BACKUPS = 2
# No backend fails here. Nor is one taken for failed on a machine that stands still for a while.
PATIENCE = ["--fail-ms", "20000", "--request-ms", "25000", "--state-dir", "none"]


class Process:
    """A running program, in a process group of its own; killed when left."""

    def __init__(self, command, **popen):
        # setpriv execs, so the pid is the program's own.
        self.child = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", *map(str, command)],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            **popen,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()

    def kill(self):
        """Ends it and whatever it started."""
        # A group goes on after its first process, so also when that has ended.
        try:
            os.killpg(self.child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.child.wait()


@dataclass(frozen=True)
class Target:
    """Where a suite finds its servers, and a directory for what it writes."""

    host: str
    ports: tuple[int, ...]
    socket: Path
    dir: Path

    @property
    def port(self):
        return self.ports[0]


class Servers:
    """One server per port of `ports` (0: any free one) and, if asked for, on a unix socket.

    `magent` is the path of the binary, or None for memcacheds without a proxy. Each port gets
    backends of its own, so that both kinds of server hold the same.
    """

    def __init__(self, ports, with_socket, magent):
        self.magent = magent
        self.with_socket = with_socket
        self.asked_ports = ports
        self.host = own_address()
        self.started = []
        self.proxies = []
        self.temporary = tempfile.TemporaryDirectory(prefix="suites-")
        self.dir = Path(self.temporary.name)

    def __enter__(self):
        try:
            ports = tuple(self.start_one(port) for port in self.asked_ports)
            path = self.dir / "server.sock"
            if self.with_socket:
                self.start_one(None, path)
        except BaseException:
            self.__exit__()
            raise
        return Target(self.host, ports, path, self.dir)

    def __exit__(self, *_):
        for process in reversed(self.started):
            process.kill()
        self.temporary.cleanup()

    def start_one(self, port, path=None):
        """The server that a suite talks to, at `port` or `path`; returns the port."""
        if self.magent is None:
            return self.start_memcached(port, path)
        backends = [self.start_memcached(0) for _ in range(PRIMARIES + BACKUPS)]
        if path is None:
            port = port or free_port(self.host)
            where = ["-l", self.host, "-p", port]
        else:
            where = ["-p", 0, "-f", path]
        servers = []
        for index, backend in enumerate(backends):
            servers += ["-s" if index < PRIMARIES else "-b", f"{self.host}:{backend}"]
        log = self.dir / f"magent-{port}.log"
        with open(log, "wb") as output:
            process = Process(
                [self.magent, "-D", "--threads", 2, *PATIENCE, *where, *servers],
                stdout=output,
                stderr=output,
            )
        self.started.append(process)
        self.proxies.append((process, log))
        self.wait_until_answering(process, port, path, log)
        return port

    def start_memcached(self, port, path=None):
        port = port or free_port(self.host)
        where = ["-l", self.host, "-p", port] if path is None else ["-s", path]
        # It refuses to run as root unless told so.
        user = ["-u", "root"] if os.geteuid() == 0 else []
        log = self.dir / f"memcached-{port}.log"
        with open(log, "wb") as output:
            process = Process(
                ["memcached", "-t", 2, "-U", 0, *user, *where], stdout=output, stderr=output
            )
        self.started.append(process)
        self.wait_until_answering(process, port, path, log)
        return port

    def wait_until_answering(self, process, port, path, log):
        deadline = time.monotonic() + START_S
        while True:
            if process.child.poll() is not None:
                raise RuntimeError(f"ended at once: {process.child.args}\n{log.read_text()}")
            if answers(path or (self.host, port)):
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"does not answer after {START_S} s: {process.child.args}")
            time.sleep(0.005)

    def complaints(self):
        """What is wrong with the proxies after a run: a list of lines."""
        found = []
        for process, log in self.proxies:
            text = log.read_text(errors="replace")
            if process.child.poll() is not None:
                found.append(f"magent ended with {process.child.returncode}: {text[-2000:]}")
            if "panicked at" in text:
                found.append(f"magent panicked: {text[-2000:]}")
            # All backends are well all the time.
            found += [line for line in text.splitlines() if re.search(r"\bis down\b", line)]
        return found


def answers(where):
    """Whether `version` is answered there, a TCP address or the path of a socket."""
    family = socket.AF_INET if isinstance(where, tuple) else socket.AF_UNIX
    try:
        with socket.socket(family) as client:
            client.settimeout(START_S)
            client.connect(where if isinstance(where, tuple) else str(where))
            client.sendall(b"version\r\n")
            return client.recv(64).startswith(b"VERSION ")
    except OSError:
        return False


_lock = threading.Lock()
_addresses = 0


def own_address():
    """A loopback address that no other run has, above those of the end-to-end tests."""
    global _addresses
    with _lock:
        index = _addresses
        _addresses += 1
    assert index < 63, "127.255 is left alone: its last address is the broadcast one"
    pid = os.getpid() & 0xFFFF
    return f"127.{192 + index}.{pid >> 8}.{pid & 0xFF}"


def free_port(host):
    """A port that is free now; the address is ours, so it stays free."""
    with socket.socket() as listener:
        listener.bind((host, 0))
        return listener.getsockname()[1]
