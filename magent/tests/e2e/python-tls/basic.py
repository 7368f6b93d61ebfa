#!/usr/bin/python3
"""Python's ssl, alone and under pymemcache, through the proxy's TLS port."""
import socket
import ssl
import sys

from pymemcache.client.base import Client


def check(what, seen, expected):
    if seen != expected:
        sys.exit(f"{what}: {seen!r}, expected {expected!r}")
    print("ok", what)


host, port, authority = sys.argv[1], int(sys.argv[2]), sys.argv[3]
context = ssl.create_default_context(cafile=authority)
client = Client((host, port), timeout=30, default_noreply=False, tls_context=context)
check("set", client.set("a", b"value"), True)
check("get", client.get("a"), b"value")
large = bytes(range(256)) * 3_900
check("set of 1 MB", client.set("large", large), True)
check("get of 1 MB", client.get("large"), large)
check("incr", [client.set("n", b"1"), client.incr("n", 4)], [True, 5])
client.quit()

for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
    context.minimum_version = context.maximum_version = version
    with socket.create_connection((host, port), timeout=30) as plain:
        with context.wrap_socket(plain, server_hostname=host) as stream:
            stream.sendall(b"get a\r\nquit\r\n")
            answer = b""
            while chunk := stream.recv(100):
                answer += chunk
            # The end is said properly: recv would have raised otherwise.
            check(stream.version(), answer, b"VALUE a 0 5\r\nvalue\r\nEND\r\n")

stranger = ssl.create_default_context()
try:
    with socket.create_connection((host, port), timeout=30) as plain:
        stranger.wrap_socket(plain, server_hostname=host)
    sys.exit("an unknown authority is trusted")
except ssl.SSLCertVerificationError as err:
    print("ok", err.verify_message)
