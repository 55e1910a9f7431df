"""The system calls that a program in the sandbox may not make, as the filter Linux runs for each call.

They lead to memory that belongs to no process (shared segments, memory files, file systems mounted in a namespace of one's own),
to other processes, or into parts of the kernel where most of its holes were. Refused calls give EPERM; `clone3` gives ENOSYS, for a
filter cannot look at its flags, and libraries then use `clone`.

Sources: linux/seccomp.h, linux/filter.h, linux/audit.h; numbers from asm/unistd_64.h (x86-64) and asm-generic/unistd.h (aarch64).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from errno import ENOSYS, EPERM

CALLS: Mapping[str, tuple[int, int]] = {
    "add_key": (248, 217),
    "bpf": (321, 280),
    "fsopen": (430, 430),
    "io_uring_setup": (425, 425),
    "keyctl": (250, 219),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "mount": (165, 40),
    "move_mount": (429, 429),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "pivot_root": (155, 41),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "request_key": (249, 218),
    "setns": (308, 268),
    "shmget": (29, 194),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}
"""Refused calls: number on x86-64, on aarch64."""
CLONE, CLONE3 = (56, 220), (435, 435)
MACHINES: Mapping[str, tuple[int, int]] = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""`platform.machine()` to the column above and the AUDIT_ARCH of its calls."""

LOAD, JUMP_EQUAL, JUMP_AT_LEAST, JUMP_BITS, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, REFUSE = 0x7FFF0000, 0x00050000
CLONE_NEWUSER = 0x10000000
FIRST_X32 = 0x40000000
"""Calls of x86-64's other convention; higher than any number of the usual one."""
NUMBER, ARCH, FIRST_ARGUMENT = 0, 4, 16
"""Places in struct seccomp_data; the lower half of the argument, on machines with the low byte first."""


def call_filter(machine: str) -> bytes:
    """The filter as an array of struct sock_filter.

    Args:
        machine: a key of `MACHINES`.
    """
    column, arch = MACHINES[machine]
    refuse = (RETURN, 0, 0, REFUSE | EPERM)
    steps = [(LOAD, 0, 0, ARCH), (JUMP_EQUAL, 1, 0, arch), refuse, (LOAD, 0, 0, NUMBER), (JUMP_AT_LEAST, 0, 1, FIRST_X32), refuse]
    for numbers in CALLS.values():
        steps += [(JUMP_EQUAL, 0, 1, numbers[column]), refuse]
    steps += [(JUMP_EQUAL, 0, 1, CLONE3[column]), (RETURN, 0, 0, REFUSE | ENOSYS), (JUMP_EQUAL, 0, 3, CLONE[column])]
    steps += [(LOAD, 0, 0, FIRST_ARGUMENT), (JUMP_BITS, 0, 1, CLONE_NEWUSER), refuse, (RETURN, 0, 0, ALLOW)]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)
