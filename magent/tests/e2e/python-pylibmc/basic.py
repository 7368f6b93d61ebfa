#!/usr/bin/python3
"""Basic use of pylibmc (libmemcached) through the proxy: host, port, and `text` or `binary`."""
import sys

import pylibmc


def check(what, seen, expected):
    if seen != expected:
        sys.exit(f"{what}: {seen!r}, expected {expected!r}")
    print("ok", what)


client = pylibmc.Client([f"{sys.argv[1]}:{sys.argv[2]}"], binary=sys.argv[3] == "binary",
                        behaviors={"cas": True, "tcp_nodelay": True})
check("set", client.set("a", "value"), True)
check("get", client.get("a"), "value")
check("get of nothing", client.get("nothing"), None)
check("add of something", client.add("a", "other"), False)
check("add", client.add("b", {"x": [1, 2]}), True)
check("get of an object", client.get("b"), {"x": [1, 2]})
check("replace", client.replace("a", "new"), True)
check("append", client.append("a", "!"), True)
check("prepend", client.prepend("a", "#"), True)
check("get_multi", client.get_multi(["a", "nothing", "b"]), {"a": "#new!", "b": {"x": [1, 2]}})
value, cas = client.gets("a")
check("gets", value, "#new!")
check("cas", client.cas("a", "swapped", cas), True)
check("cas of old", client.cas("a", "again", cas), False)
check("set of a number", client.set("n", 5), True)
check("incr", client.incr("n", 3), 8)
check("decr", client.decr("n", 2), 6)
try:
    client.incr("nothing")
    sys.exit("incr of nothing: no error")
except pylibmc.NotFound:
    print("ok incr of nothing")
check("touch", client.touch("a", 3600), True)
many = {f"many-{n}": f"value {n}" for n in range(500)}
check("set_multi", client.set_multi(many), [])
check("get_multi of 500", client.get_multi(list(many)), many)
check("delete_multi", client.delete_multi(list(many)), True)
check("large", client.set("large", b"\0\r\nx" * 200000), True)
check("get of large", client.get("large"), b"\0\r\nx" * 200000)
check("delete", client.delete("a"), True)
check("delete of nothing", client.delete("a"), False)
check("stats", len(client.get_stats()), 1)
check("flush_all", client.flush_all(), True)
check("get of flushed", client.get("b"), None)
client.disconnect_all()
