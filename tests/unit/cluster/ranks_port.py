"""Ports for tests."""

import contextlib
import socket


def free_ports(count: int) -> list[int]:
    """So many ports in a row that nobody listens on."""
    while True:
        with contextlib.ExitStack() as opened:
            first = opened.enter_context(socket.socket())
            first.bind(("127.0.0.1", 0))
            start = first.getsockname()[1]
            try:
                for port in range(start + 1, start + count):
                    opened.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return list(range(start, start + count))
