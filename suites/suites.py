"""The suites: what each runs, how it is told where its server is, and how its output is read.

A suite is a program that others wrote, with its own cases where its package carries them, else a
script in clients/ that goes through the client's whole API.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cases

CLIENTS = Path(__file__).parent / "clients"


@dataclass(frozen=True)
class Copy:
    """Files that the run gets a copy of, in its directory, with some of their text replaced."""

    source: Path
    name: str
    replace: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Suite:
    """In `command`, the values of `env` and those of `Copy.replace`, {host}, {port}, {socket} and
    {dir} (where the run may write, and starts) stand for the run's own."""

    name: str
    command: list
    read: Callable[[str], dict[str, str]]
    # How many cases pass on a memcached: fewer would mean that the suite stopped half-way.
    passing: int
    # Seconds, far above what it takes.
    limit: int = 120
    ports: tuple[int, ...] = (0,)
    with_socket: bool = False
    env: dict[str, str] = field(default_factory=dict)
    copies: tuple[Copy, ...] = ()


def all_suites(cache):
    """Every suite, those that take longest first."""
    return [
        *python_suites(cache),
        *php_suites(),
        *node_suites(cache),
        *libmemcached_suites(),
        *go_suites(cache),
        *ruby_suites(),
    ]


def python_suites(cache):
    # -p: no files beside the sources.
    pytest = [cache.python, "-B", "-m", "pytest", "-v", "--color=no", "--tb=short"]
    pytest += ["-p", "no:cacheprovider"]
    pymemcache = next((cache.root / "python/lib").glob("*/site-packages/pymemcache/test"))
    yield Suite(
        name="pymemcache",
        command=[*pytest, pymemcache / "test_integration.py", "-m", "integration"]
        + ["--server", "{host}", "--port", "{port}"],
        read=cases.pytest,
        passing=100,
    )
    bmemcached = cache.sdist("python_binary_memcached") / "test"
    yield Suite(
        name="python-binary-memcached",
        # One has a server of its own, and sharp limits on time; three need memcacheds of their own,
        # started by a conftest.py that the package lacks.
        command=[*pytest, "test", "--ignore=test/test_error_handling.py"]
        + [f"--ignore=test/test_{name}.py" for name in ["ipv6", "sasl_integration", "tls"]],
        read=cases.pytest,
        passing=225,
        ports=(11211, 5000),
        with_socket=True,
        env={"MEMCACHED_HOST": "{host}"},
        copies=(Copy(bmemcached, "test", {"/tmp/memcached.sock": "{socket}"}),),
    )
    for protocol in ["text", "binary"]:
        yield Suite(
            name=f"pylibmc-{protocol}",
            command=[*pytest, "tests"],
            read=cases.pytest,
            passing={"text": 24, "binary": 40}[protocol],
            env={
                "MEMCACHED_HOST": "{host}",
                "MEMCACHED_PORT": "{port}",
                "SUITE_PROTOCOL": protocol,
            },
            copies=(
                Copy(
                    cache.sdist("pylibmc") / "tests",
                    "tests",
                    {
                        '_host = "127.0.0.1"': '_host = "{host}"',
                        '_port = "11211"': '_port = "{port}"',
                        # An item of 1 s may be gone at once.
                        "touch_test, tval, 1)": "touch_test, tval, 2)",
                    },
                ),
                Copy(CLIENTS / "pylibmc/conftest.py", "conftest.py"),
            ),
        )
    yield Suite(
        name="meta-memcache",
        command=[cache.python, "-B", CLIENTS / "meta-memcache/api.py", "{host}", "{port}"],
        read=cases.tap,
        passing=89,
    )


def php_suites():
    for protocol in ["text", "binary"]:
        yield Suite(
            name=f"php-memcached-{protocol}",
            command=["php", CLIENTS / "php-memcached/api.php", "{host}", "{port}", protocol],
            read=cases.tap,
            passing={"text": 105, "binary": 108}[protocol],
        )
        # Binary is php-memcached's default: nothing but handler and path is set.
        options = ["-d", "memcached.sess_binary_protocol=0"] if protocol == "text" else []
        yield Suite(
            name=f"php-memcached-sessions-{protocol}",
            command=["php", CLIENTS / "php-sessions/sessions.php"]
            + ["-d", "session.save_handler=memcached", "-d", "session.save_path={host}:{port}"]
            + options,
            read=cases.tap,
            passing=40,
        )
    yield Suite(
        name="pecl-memcache",
        command=["php", CLIENTS / "pecl-memcache/api.php", "{host}", "{port}"],
        read=cases.tap,
        passing=68,
    )
    yield Suite(
        name="pecl-memcache-sessions",
        command=["php", CLIENTS / "php-sessions/sessions.php"]
        + ["-d", "session.save_handler=memcache", "-d", "session.save_path=tcp://{host}:{port}"],
        read=cases.tap,
        passing=37,
    )


def node_suites(cache):
    modules = cache.node / "node_modules"
    yield Suite(
        name="npm-memcached",
        # Left out: what the client does about servers that are not there, one of them outside of
        # this machine, with sharp limits on time.
        command=[modules / ".bin/mocha", "--require", "should", "--reporter", "tap", "--exit"]
        + ["--timeout", "20000", "--invert", "--grep"]
        + ["failed server|reset failures|schedule server|on connection timeout"]
        + ["memcached/test/*.test.js"],
        read=cases.tap,
        passing=41,
        ports=(11211, 11212, 11213),
        env={"MEMCACHED__HOST": "{host}", "NODE_PATH": str(modules)},
        copies=(
            Copy(
                modules / "memcached",
                "memcached",
                # An item of 1 s may be gone at once.
                {"127.0.0.1": "{host}", "message, 1, function": "message, 2, function"},
            ),
        ),
    )
    yield Suite(
        name="memjs",
        command=["node", CLIENTS / "memjs/api.js", "{host}", "{port}"],
        read=cases.tap,
        passing=37,
        env={"NODE_PATH": str(modules)},
    )


def libmemcached_suites():
    for protocol, flag in [("text", "-a"), ("binary", "-b")]:
        yield Suite(
            name=f"memccapable-{protocol}",
            command=["memccapable", flag, "-h", "{host}", "-p", "{port}"],
            read=cases.memccapable,
            passing=27,
        )
        yield Suite(
            name=f"libmemcached-tools-{protocol}",
            command=[sys.executable, "-B", CLIENTS / "libmemcached-tools/tools.py"]
            + ["{host}", "{port}", protocol],
            read=cases.tap,
            passing={"text": 41, "binary": 38}[protocol],
        )


def go_suites(cache):
    package = "src/github.com/bradfitz/gomemcache/memcache"
    yield Suite(
        name="gomemcache",
        # Not TestUnixSocket, which starts a memcached of its own.
        command=["go", "test", "-v", "-run", "Test[^U]", "github.com/bradfitz/gomemcache/memcache"],
        read=cases.go,
        passing=7,
        env={"GO111MODULE": "off", "GOPATH": "{dir}", "GOCACHE": str(cache.go)},
        copies=(
            Copy(
                Path("/usr/share/gocode") / package,
                package,
                # Limits on time that a busy machine misses: for an answer, and for what is touched each
                # second.
                {
                    "localhost:11211": "{host}:{port}",
                    "100 * time.Millisecond": "30 * time.Second",
                    "secondsToExpiry = int32(2)": "secondsToExpiry = int32(3)",
                },
            ),
            Copy(CLIENTS / "gomemcache/api_test.go", f"{package}/api_test.go"),
        ),
    )


def ruby_suites():
    yield Suite(
        name="dalli",
        command=["ruby", CLIENTS / "dalli/api.rb", "{host}", "{port}"],
        read=cases.tap,
        passing=66,
    )
