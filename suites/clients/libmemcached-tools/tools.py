"""libmemcached's command line tools. Arguments: host, port, "text" or "binary"."""

import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from check import check

HOST, PORT, PROTOCOL = sys.argv[1:]


def tool(name, *arguments):
    """Exit status and standard output."""
    binary = ["--binary"] if PROTOCOL == "binary" else []
    done = subprocess.run(
        [name, f"--servers={HOST}:{PORT}", *binary, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
    )
    return done.returncode, done.stdout


def status(name, *arguments):
    return tool(name, *arguments)[0]


def files():
    """Files are stored under their name and read back."""
    contents = {
        "words": b"some words\n",
        "bytes": bytes(range(256)) * 4,
        "large": b"0123456789" * 90_000,
    }
    for name, content in contents.items():
        Path(name).write_bytes(content)
    check("memccp", lambda: status("memccp", *contents), 0)
    for name, content in contents.items():
        check(f"memccat {name}", lambda: tool("memccat", name) == (0, content + b"\n"))
    check(
        "memccat of several", lambda: tool("memccat", "words", "words"), (0, b"some words\n\n" * 2)
    )
    check("memccat into a file", lambda: status("memccat", "--file=copy", "bytes"), 0)
    check("the file is the same", lambda: Path("copy").read_bytes() == contents["bytes"])
    check("memccat of nothing", lambda: tool("memccat", "nothing"), (1, b""))
    check("memccat --flags", lambda: tool("memccat", "--flags", "words"), (0, b"0\nsome words\n\n"))
    check(
        "memccp --flags --expire", lambda: status("memccp", "--flags=7", "--expire=100", "words"), 0
    )
    check(
        "memccat of other flags",
        lambda: tool("memccat", "--flags", "words"),
        (0, b"7\nsome words\n\n"),
    )
    check("memccp --add of something", lambda: status("memccp", "--add", "words") == 0, False)
    check("memccp --replace", lambda: status("memccp", "--replace", "words"), 0)
    check("memcexist", lambda: status("memcexist", "words"), 0)
    check("memcexist of nothing", lambda: status("memcexist", "nothing"), 1)
    check("memctouch", lambda: status("memctouch", "--expire=100", "words"), 0)
    check("memctouch of nothing", lambda: status("memctouch", "--expire=100", "nothing"), 1)
    check("memcrm", lambda: status("memcrm", "words"), 0)
    check("memcrm of nothing", lambda: status("memcrm", "words"), 1)
    check("memccat of removed", lambda: tool("memccat", "words"), (1, b""))


def server():
    check("memcstat", lambda: b"curr_connections: " in tool("memcstat")[1])
    check("memcstat --server-version", lambda: status("memcstat", "--server-version"), 0)
    check("memcstat --analyze", lambda: status("memcstat", "--analyze"), 0)
    check("memcstat --args", lambda: b"maxbytes: " in tool("memcstat", "--args=settings")[1])
    if PROTOCOL == "text":
        # These have no option for binary.
        check("memcping", lambda: status("memcping"), 0)
        check("memcdump", lambda: b"bytes\n" in tool("memcdump")[1])
    check("memcflush", lambda: status("memcflush"), 0)
    check("memcexist of flushed", lambda: status("memcexist", "bytes"), 1)


def load():
    for test in ["set", "get", "mget"]:
        for more in [[], ["--non-blocking"], ["--tcp-nodelay"], ["--flush"]]:
            name = " ".join(["memcslap", f"--test={test}", *more])
            check(name, lambda: slap(f"--test={test}", *more), 0)
    if PROTOCOL == "text":
        check("memcslap --noreply", lambda: slap("--test=set", "--noreply"), 0)


def slap(*arguments):
    return status(
        "memcslap", "--concurrency=4", "--execute-number=100", "--initial-load=200", *arguments
    )


files()
server()
load()
