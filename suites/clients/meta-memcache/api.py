"""The whole API of meta-memcache, which speaks the meta protocol alone. Arguments: host, port."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from check import check, eventually
from meta_memcache import CacheClient, Key, SetMode
from meta_memcache.configuration import (
    LeasePolicy,
    RecachePolicy,
    ServerAddress,
    StalePolicy,
    connection_pool_factory_builder,
)
from meta_memcache.protocol import Miss, NotStored, RequestFlags, Success, Value


def connect(host, port):
    return CacheClient.cache_client_from_servers(
        servers=[ServerAddress(host, int(port))],
        connection_pool_factory_fn=connection_pool_factory_builder(
            connection_timeout=30, recv_timeout=30
        ),
    )


def storing(client):
    for name, value in {
        "text": "value",
        "bytes": b"\0\r\nVA 3\r\n",
        "number": 42,
        "list": [1, "two", None],
        "large": "0123456789" * 90_000,
    }.items():
        check(f"set {name}", lambda: client.set(Key(name), value, ttl=100))
        check(f"get {name}", lambda: client.get(Key(name)) == value)
    check("set empty", lambda: client.set(Key("empty"), "", ttl=100))
    check("get empty", lambda: client.get(Key("empty")), b"")
    check("get of nothing", lambda: client.get(Key("nothing")), None)
    check("get typed", lambda: client.get_typed(Key("text"), str), "value")
    check("get typed otherwise", lambda: client.get_typed(Key("text"), int), None)
    check("set without an answer", lambda: client.set(Key("quiet"), "x", ttl=100, no_reply=True))
    check("it was stored", lambda: eventually(lambda: client.get(Key("quiet")) == "x"))
    check(
        "add of something", lambda: client.set(Key("text"), "y", 100, set_mode=SetMode.ADD), False
    )
    check("add", lambda: client.set(Key("added"), "y", ttl=100, set_mode=SetMode.ADD))
    check("refill of something", lambda: client.refill(Key("text"), "y", ttl=100), False)
    check("refill", lambda: client.refill(Key("refilled"), "y", ttl=100))
    mode = SetMode.REPLACE
    check("replace of nothing", lambda: client.set(Key("nothing"), "y", 100, set_mode=mode), False)
    check("replace", lambda: client.set(Key("added"), "z", ttl=100, set_mode=mode))
    check("append", lambda: client.set(Key("added"), "c", ttl=100, set_mode=SetMode.APPEND))
    check("prepend", lambda: client.set(Key("added"), "a", ttl=100, set_mode=SetMode.PREPEND))
    check("get of joined", lambda: client.get(Key("added")), "azc")
    check(
        "append to nothing", lambda: client.set(Key("no"), "c", 9, set_mode=SetMode.APPEND), False
    )
    check("delete", lambda: client.delete(Key("text")))
    check("delete of nothing", lambda: client.delete(Key("text")), False)
    check("get of deleted", lambda: client.get(Key("text")), None)


def keys(client):
    # Not ASCII or long: sent in base64 or as a hash.
    for name, key in {
        "of other letters": "ключ",
        "longest": "k" * 250,
        "too long": "k" * 400,
    }.items():
        check(f"set of a key {name}", lambda: client.set(Key(key), "x", ttl=100))
        check(f"get of a key {name}", lambda: client.get(Key(key)), "x")
    check("routing key", lambda: client.set(Key("routed", routing_key="r"), "x", ttl=100))
    several = [Key(f"several-{n}") for n in range(200)]
    for key in several[:150]:
        client.set(key, key.key, ttl=100)
    found = client.multi_get(several)
    check(
        "multi_get", lambda: [found[key] for key in several[:150]], [k.key for k in several[:150]]
    )
    check("multi_get of nothing", lambda: {found[key] for key in several[150:]}, {None})
    with_cas = client.multi_get_cas(several)
    check("multi_get_cas", lambda: [type(with_cas[key][1]) for key in several[:150]], [int] * 150)


def swapping(client):
    client.set(Key("c"), "first", ttl=100)
    value, cas = client.get_cas(Key("c"))
    check("get_cas", lambda: (value, cas > 0), ("first", True))
    check("get_cas_typed", lambda: client.get_cas_typed(Key("c"), str), ("first", cas))
    check("get_cas of nothing", lambda: client.get_cas(Key("nothing")), (None, None))
    check("set with cas", lambda: client.set(Key("c"), "second", ttl=100, cas_token=cas))
    check("set with an old cas", lambda: client.set(Key("c"), "x", ttl=100, cas_token=cas), False)
    check("delete with an old cas", lambda: client.delete(Key("c"), cas_token=cas), False)
    new_cas = client.set_cas(Key("c"), "third", ttl=100)
    check("set_cas", lambda: client.get_cas(Key("c")), ("third", new_cas))
    check("delete with cas", lambda: client.delete(Key("c"), cas_token=new_cas))


def counting(client):
    check("delta of nothing", lambda: client.delta(Key("n"), 1), False)
    check("delta_initialize", lambda: client.delta_initialize(Key("n"), 1, 10, 100))
    check("delta", lambda: client.delta(Key("n"), 5))
    check("delta_and_get", lambda: client.delta_and_get(Key("n"), -2), 13)
    check("delta_and_get below zero", lambda: client.delta_and_get(Key("n"), -100), 0)
    for expected in [10, 11]:
        check(
            f"delta_initialize_and_get: {expected}",
            lambda: client.delta_initialize_and_get(Key("m"), 1, 10, 100),
            expected,
        )
    check("delta without an answer", lambda: client.delta(Key("m"), 1, no_reply=True))
    check("it was counted", lambda: eventually(lambda: client.delta_and_get(Key("m"), 0) == 12))


def expiring(client):
    # One of 1 s may be gone at once.
    check("set with ttl", lambda: client.set(Key("touched"), "x", ttl=2))
    check("set with the same ttl", lambda: client.set(Key("untouched"), "x", ttl=2))
    check("set to be touched by get", lambda: client.set(Key("got"), "x", ttl=2))
    check("touch", lambda: client.touch(Key("touched"), ttl=100))
    check("touch of nothing", lambda: client.touch(Key("nothing"), ttl=100), False)
    check("get and touch", lambda: client.get(Key("got"), touch_ttl=100), "x")
    check("it expires", lambda: eventually(lambda: client.get(Key("untouched")) is None))
    check("touched stays", lambda: (client.get(Key("touched")), client.get(Key("got"))), ("x", "x"))


def herds(client):
    """Of several who see a value that is missing, stale or soon to expire, one is to renew it."""
    key = Key("stale")
    client.set(key, "old", ttl=100)
    check(
        "invalidate",
        lambda: client.invalidate(key, stale_policy=StalePolicy(mark_stale_on_deletion_ttl=30)),
    )
    cas_seen = client.get_cas(key)
    check("stale: the first is told to renew", lambda: cas_seen[0], None)
    check(
        "stale: others see the old value", lambda: [client.get(key) for _ in range(3)], ["old"] * 3
    )
    check("stale: renewed", lambda: client.set(key, "new", ttl=100, cas_token=cas_seen[1]))
    check("stale: all see the new value", lambda: client.get(key), "new")
    check("invalidate of nothing", lambda: client.invalidate(Key("nothing")))

    key, policy = Key("soon"), RecachePolicy(ttl=50)
    client.set(key, "x", ttl=20)
    seen = [client.get(key, recache_policy=policy) for _ in range(3)]
    check("soon: the first is told to renew, others see the value", lambda: seen, [None, "x", "x"])
    client.set(key, "x", ttl=100)
    check("soon: not if much is left", lambda: client.get(key, recache_policy=policy), "x")

    key, lease = Key("leased"), LeasePolicy(ttl=30, miss_retries=2, miss_retry_wait=0)
    value, cas = client.get_or_lease_cas(key, lease)
    check("lease: the first has it", lambda: (value, cas is not None), (None, True))
    check("lease: the second waits in vain", lambda: client.get_or_lease(key, lease), None)
    check("lease: stored", lambda: client.set(key, "made", ttl=100, cas_token=cas))
    check("lease: all see it", lambda: client.get_or_lease(key, lease), "made")
    stale = StalePolicy(mark_stale_on_cas_mismatch=True)
    check("an older write does not win", lambda: old_write(client, stale), [True, None, "older"])


def old_write(client, stale):
    """A cas lower than the item's is stored with a stale policy, but as stale."""
    key = Key("raced")
    client.set(key, "first", ttl=100)
    _, cas = client.get_cas(key)
    client.set(key, "newer", ttl=100)
    stored = client.set(key, "older", ttl=100, cas_token=cas, stale_policy=stale)
    return [stored, client.get(key), client.get(key)]


def flags(client):
    """The commands themselves."""
    key = Key("meta")
    stored = client.meta_set(key, "value", RequestFlags(cache_ttl=100, return_cas_token=True))
    check("meta_set", lambda: (type(stored), stored.flags.cas_token > 0), (Success, True))
    asked = RequestFlags(
        return_value=True,
        return_ttl=True,
        return_size=True,
        return_client_flag=True,
        return_fetched=True,
        return_last_access=True,
    )
    got = client.meta_get(key, flags=asked)
    check("meta_get", lambda: (type(got), got.value, got.size), (Value, "value", 5))
    check("meta_get: ttl", lambda: 90 < got.flags.ttl <= 100)
    check("meta_get: fetched before", lambda: bool(got.flags.fetched), False)
    check("meta_get: last access", lambda: got.flags.last_access < 60)
    check("meta_get of nothing", lambda: type(client.meta_get(Key("nothing"))), Miss)
    check("meta_delete", lambda: type(client.meta_delete(key)), Success)
    check("meta_delete of nothing", lambda: type(client.meta_delete(key)), Miss)
    counted = RequestFlags(return_value=True, ma_initial_value=7, vivify_on_miss_ttl=100)
    check("meta_arithmetic", lambda: type(client.meta_arithmetic(Key("ma"), flags=counted)), Value)
    several = client.meta_multiget([Key("ma"), key], RequestFlags(return_value=True))
    check("meta_multiget", lambda: [type(several[k]) for k in (Key("ma"), key)], [Value, Miss])
    client.set(Key("there"), "x", ttl=100)
    add = RequestFlags(mode=SetMode.ADD.value)
    check("meta_set refused", lambda: type(client.meta_set(Key("there"), "x", add)), NotStored)


def main():
    client = connect(*sys.argv[1:])
    for part in [storing, keys, swapping, counting, expiring, herds, flags]:
        part(client)


main()
