#!/usr/bin/python3
"""Basic use of pymemcache through the proxy."""
import sys

from pymemcache.client.base import Client, PooledClient
from pymemcache.exceptions import MemcacheClientError, MemcacheUnknownCommandError


def check(what, seen, expected):
    if seen != expected:
        sys.exit(f"{what}: {seen!r}, expected {expected!r}")
    print("ok", what)


address = (sys.argv[1], int(sys.argv[2]))
client = Client(address, timeout=30, default_noreply=False)
check("set", client.set("a", b"value"), True)
check("get", client.get("a"), b"value")
check("get of nothing", client.get("nothing", default=b"default"), b"default")
check("add of something", client.add("a", b"other"), False)
check("add", client.add("b", b"1"), True)
check("replace", client.replace("a", b"new"), True)
check("replace of nothing", client.replace("nothing", b"x"), False)
check("append", client.append("a", b"!"), True)
check("prepend", client.prepend("a", b"#"), True)
check("get_many", client.get_many(["a", "nothing", "b"]), {"a": b"#new!", "b": b"1"})
value, cas = client.gets("a")
check("gets", value, b"#new!")
check("cas", client.cas("a", b"swapped", cas), True)
check("cas of old", client.cas("a", b"again", cas), False)
check("cas of nothing", client.cas("nothing", b"x", cas), None)
check("gets_many", {key: value for key, (value, _) in client.gets_many(["a", "b"]).items()},
      {"a": b"swapped", "b": b"1"})
check("incr", client.incr("b", 4), 5)
check("decr", client.decr("b", 2), 3)
check("incr of nothing", client.incr("nothing", 1), None)
check("touch", client.touch("a", 3600), True)
check("touch of nothing", client.touch("nothing", 3600), False)
many = {f"many-{n}": b"value %d" % n for n in range(500)}
check("set_many", client.set_many(many), [])
check("get_many of 500", client.get_many(list(many)), many)
check("delete_many", client.delete_many(list(many)), True)
check("get_many of deleted", client.get_many(list(many)), {})
check("set noreply", client.set("quiet", b"stored", noreply=True), True)
check("get after noreply", client.get("quiet"), b"stored")
check("large", client.set("large", b"\0\r\nx" * 200000), True)
check("get of large", client.get("large"), b"\0\r\nx" * 200000)
check("delete", client.delete("a"), True)
check("delete of nothing", client.delete("a"), False)
check("version", client.version()[:2], b"1.")
check("stats", client.stats()[b"curr_items"] > 0, True)
try:
    client.shutdown()
    sys.exit("shutdown was forwarded")
except (MemcacheClientError, MemcacheUnknownCommandError):
    print("ok shutdown is refused")
check("flush_all", client.flush_all(), True)
check("get of flushed", client.get("b"), None)
client.quit()
pooled = PooledClient(address, max_pool_size=4, timeout=30)
check("pooled set", pooled.set("a", b"value", noreply=False), True)
check("pooled get", pooled.get("a"), b"value")
