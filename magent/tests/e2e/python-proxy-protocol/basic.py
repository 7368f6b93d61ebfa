#!/usr/bin/python3
"""A load balancer that speaks the PROXY protocol: every version, family and command, in one piece and byte by byte."""
import socket
import ssl
import struct
import sys

host, port = sys.argv[1], int(sys.argv[2])
context = ssl.create_default_context(cafile=sys.argv[3]) if len(sys.argv) > 3 else None


def v2(command, family, body):
    return b"\r\n\r\n\0\r\nQUIT\n" + struct.pack("!BBH", 0x20 | command, family, len(body)) + body


ipv4 = socket.inet_aton("192.0.2.7") + socket.inet_aton(host) + struct.pack("!HH", 4711, port)
ipv6 = socket.inet_pton(socket.AF_INET6, "2001:db8::7") + bytes(16) + struct.pack("!HH", 4711, port)
tlv = b"\x03\0\x04\x12\x34\x56\x78" + b"\x04\0\x20" + bytes(32)


def ask(header, source="127.0.0.1", pieces=False):
    """The proxy's version, asked after this header; nothing if it hangs up."""
    stream = socket.create_connection((host, port), timeout=30, source_address=(source, 0))
    try:
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for n in range(0, len(header), 1 if pieces else len(header)):
            stream.sendall(header[n:n + 1] if pieces else header)
        if context:
            stream = context.wrap_socket(stream, server_hostname=host)
        stream.sendall(b"mn\r\n")
        return stream.recv(100)
    except OSError:
        return b""
    finally:
        stream.close()


def check(what, seen, expected):
    if seen != expected:
        sys.exit(f"{what}: {seen!r}, expected {expected!r}")
    print("ok", what)


for what, header in [
    ("IPv4", v2(1, 0x11, ipv4)),
    ("IPv6", v2(1, 0x21, ipv6)),
    ("extensions", v2(1, 0x11, ipv4 + tlv)),
    ("many extensions", v2(1, 0x11, ipv4 + b"\x04\x07\xd0" + bytes(2000))),
    ("LOCAL", v2(0, 0, b"")),
    ("LOCAL with addresses", v2(0, 0x11, ipv4)),
    ("unix", v2(1, 0x31, bytes(216))),
    ("unspecified", v2(1, 0, b"")),
    ("version 1", b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 11211\r\n"),
    ("version 1 unknown", b"PROXY UNKNOWN\r\n"),
]:
    check(what, ask(header), b"MN\r\n")
check("byte by byte", ask(v2(1, 0x11, ipv4 + tlv), pieces=True), b"MN\r\n")
check("too short", ask(v2(1, 0x21, ipv4)), b"")
check("from elsewhere", ask(v2(1, 0x11, ipv4), source="127.0.0.9"), b"")
