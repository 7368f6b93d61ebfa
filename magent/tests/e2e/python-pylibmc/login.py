#!/usr/bin/python3
"""Logs in with pylibmc (libmemcached, SASL): host, port, user, password, and `in` or `out`."""
import sys

import pylibmc

host, port, user, password, expected = sys.argv[1:]
client = pylibmc.Client([f"{host}:{port}"], binary=True, username=user, password=password)
try:
    client.set("pylibmc", "value")
    seen = "in" if client.get("pylibmc") == "value" else "nothing"
except pylibmc.Error as error:
    print(error)
    seen = "out"
if seen != expected:
    sys.exit(f"{user}: {seen}, expected {expected}")
