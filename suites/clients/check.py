"""What the Python scripts say of each case: `ok NAME` or `not ok NAME # why`; see cases.py."""

import time


def check(name, call, expected=True):
    """Whether `call()` returns `expected`."""
    try:
        seen = call()
        why = None if seen == expected else f"{seen!r}, expected {expected!r}"
    except Exception as error:
        why = repr(error)
    print(f"ok {name}" if why is None else f"not ok {name} # {why[:300]}", flush=True)


def eventually(condition):
    """Until it holds: what expires does so by the server's clock, which ticks in seconds."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False
