"""Lets pylibmc's own suite speak $SUITE_PROTOCOL where a test does not ask for a protocol."""

import os

import pylibmc.autoconf
import pylibmc.test
import pytest

BINARY = os.environ["SUITE_PROTOCOL"] == "binary"
make_test_client = pylibmc.test.make_test_client


def make_test_client_of_protocol(*args, **options):
    binary = options.setdefault("binary", BINARY)
    if binary and not BINARY:
        pytest.skip("asks for binary itself: it runs in the binary suite")
    return make_test_client(*args, **options)


# Before the tests import it by name.
pylibmc.test.make_test_client = make_test_client_of_protocol

# The only case that asks the default server, whatever the environment says.
_, *others = pylibmc.autoconf.elasticache.__defaults__
server = "{MEMCACHED_HOST}:{MEMCACHED_PORT}".format_map(os.environ)
pylibmc.autoconf.elasticache.__defaults__ = (server, *others)
