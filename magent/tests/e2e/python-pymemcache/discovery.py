#!/usr/bin/python3
"""Discovers the proxies of a list, as clients with auto discovery do, and goes on when one of them is killed.

Arguments: host and port of any proxy, and the process id of the one to kill, which is the second of the list.
"""
import os
import signal
import socket
import sys

from pymemcache.client.hash import HashClient
from pymemcache.exceptions import MemcacheUnexpectedCloseError

host, port, pid = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])


def discover(address, command, start):
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall(command + b"\r\n")
        answer = b""
        while not answer.endswith(b"\n\r\nEND\r\n"):
            more = connection.recv(4096)
            if not more:
                break
            answer += more
    head, version, nodes, *_ = answer.splitlines()
    if not head.startswith(start):
        sys.exit(f"{command}: {answer!r}")
    int(version)
    nodes = [node.decode().split("|") for node in nodes.split(b" ")]
    return [(ip, int(port)) for _, ip, port in nodes]


nodes = discover((host, port), b"config get cluster", b"CONFIG cluster 0 ")
print("nodes", nodes)
for node in nodes:
    if discover(node, b"get AmazonElastiCache:cluster", b"VALUE AmazonElastiCache:cluster 0 ") != nodes:
        sys.exit(f"{node} knows another list")

client = HashClient(nodes, timeout=30, retry_attempts=0, dead_timeout=600, default_noreply=False)
keys = [f"key-{n}" for n in range(200)]
for key in keys:
    client.set(key, key.encode())
os.kill(pid, signal.SIGKILL)
failures = 0
for _ in range(2):
    for key in keys:
        try:
            # Both have the same backends behind them, so whichever is asked knows each key.
            value = client.get(key)
        except (OSError, MemcacheUnexpectedCloseError):
            failures += 1
            continue
        if value != key.encode():
            sys.exit(f"{key}: {value!r}")
print("failures", failures)
if not 1 <= failures <= 3:
    sys.exit("the dead proxy was to be noticed, and then left out")
