"""Hosts and ports as this machine sees them."""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from mindformers_codellama.cluster.environment import Address
from mindformers_codellama.errors import ClusterError, ConfigError

_SIOCGIFADDR = 0x8915
"""Linux: the IPv4 address of a network interface."""
PORTS_TRIED = 100
"""Ports looked at for a job of one machine that names none."""


def resolve(host: str, *, where: object = "host") -> str:
    """The address of a host name, IPv4 before IPv6; an address is returned as it is.

    Raises:
        ClusterError: the name means nothing to this machine.
    """
    try:
        found = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        fix = "write its address, or add the name to DNS or /etc/hosts of every machine."
        raise ClusterError(where, f"the host {host} does not resolve ({reason}).", fix=fix) from error
    return str(min(found, key=lambda entry: entry[0] != socket.AF_INET)[4][0])


def is_local(host: str) -> bool:
    """Whether `host` is an address of this machine: whether one can listen on it."""
    try:
        return _bind(Address(resolve(host), 0)) is None
    except ClusterError:
        return False


def local_addresses() -> list[str]:
    """IPv4 addresses of this machine's network interfaces (the first of each), for messages."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(asker.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:
                continue  # an interface without an IPv4 address
            found.append(socket.inet_ntoa(answer[20:24]))
    return found


def require_free(address: Address) -> None:
    """Refuse a port on which the scheduler could not listen.

    Raises:
        ClusterError: another program listens there, or the host is another machine.
    """
    problem = _bind(address)
    if problem is None:
        return
    if problem == errno.EADDRINUSE:
        raise in_use(address)
    if problem == errno.EADDRNOTAVAIL:
        text = f"{address.host} is none of this machine's addresses ({', '.join(local_addresses())})"
        problem_text = f"{text}, but the scheduler runs here, beside rank 0."
        raise ClusterError("--master", problem_text, fix="name an address of the machine with rank 0.")
    raise ClusterError("--master", f"cannot listen on {address}: {errno.errorcode.get(problem, problem)}.", fix="choose a port above 1023.")


@contextmanager
def held_port(address: Address) -> Iterator[None]:
    """Keep other launchers of this machine off the port, from before the scheduler listens until the job's end.

    The mark is a socket without a file (Linux' abstract names), which goes with the process however it ends. Without it, of
    two jobs started at once both would find the port free, and the ranks of one would join the other.

    Raises:
        ClusterError: as `require_free`; or another launcher holds it.
    """
    require_free(address)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as mark:
        try:
            mark.bind(_mark(address))
        except OSError:
            raise in_use(address) from None
        yield


def is_free(address: Address) -> bool:
    """Whether one can listen there and no launcher of this machine holds it."""
    if _bind(address) is not None:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as mark:
        try:
            mark.bind(_mark(address))
        except OSError:
            return False
    return True


def in_use(address: Address, text: str = "is in use; another job?") -> ClusterError:
    """The error for a port that somebody else has."""
    fix = f"--master {address.host}:{address.port + 1}, the same on every machine."
    return ClusterError("--master", f"port {address.port} of {address.host} {text}", fix=fix)


def first_free(address: Address) -> Address:
    """The first port from `address` upward that one can listen on; `address` itself when none of `PORTS_TRIED` is.

    MindSpore's ranks on a CPU listen on ports from 8118 upward, so another job may hold the default one.
    """
    candidates = (Address(address.host, port) for port in range(address.port, min(address.port + PORTS_TRIED, 65536)))
    return next((candidate for candidate in candidates if is_free(candidate)), address)


def parse_address(text: str, *, default_port: int) -> Address:
    """`HOST:PORT` or `HOST`; an IPv6 host is written in square brackets.

    Raises:
        ConfigError: no host, or a port that is none.
    """
    host, colon, port = text.rpartition(":") if not text.endswith("]") and text.count(":") != 0 else (text, "", "")
    if not host or (colon and not (port.isdecimal() and 0 < int(port) < 65536)):
        raise ConfigError("--master", f"got {text!r}.", fix="HOST:PORT, for example 192.168.1.10:8118, with a port of 1 to 65535.")
    return Address(host.strip("[]"), int(port) if colon else default_port)


def _mark(address: Address) -> str:
    return f"\0mindformers_codellama.scheduler.{address}"


def _bind(address: Address) -> int | None:
    """None when one can listen there, otherwise the system's error number."""
    family, kind, _, _, where = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what a job that just ended holds is no obstacle
        try:
            probe.bind(where)
            probe.listen(1)  # two sockets with SO_REUSEADDR may bind, but only one may listen
        except OSError as error:
            return error.errno or errno.EIO
    return None
