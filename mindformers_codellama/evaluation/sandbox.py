"""Where programs of a model run: in bubblewrap, or, when a person insists, with limits alone.

In the sandbox a program sees the interpreter and the system's libraries, read only, and a small `/tmp` of its own that vanishes
with it. It has no network, no other processes, no `/proc`, no environment, no rights, and not the
system calls of `seccomp`.
"""

from __future__ import annotations

import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindformers_codellama.errors import ConfigError, EnvironmentFault
from mindformers_codellama.evaluation.seccomp import MACHINES, call_filter

INSIDE = Path(__file__).parent / "inside"
INSIDE_SANDBOX = "/inside"
NAMESPACES = ("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try")
SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/localtime")
TEMPORARY_BYTES = 32 << 20
MEBIBYTE = 1 << 20
FIRST_FREE_UID = 3_000_000_000
"""Above the ids that systems and containers give out."""
PROBE_SECONDS = 60
UNSAFE_WARNING = (
    "--unsafe: programs of the model run as you, with limits of time, memory, processes and file sizes alone. They can read, change "
    "and delete your files, use the network, and end your processes; one that means to can make its own verdict."
)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one sample may use; each of its two processes by itself.

    Raises:
        ConfigError: a number below 1.
    """

    cpu_seconds: int = 3
    """CPU time of a process; whole seconds, for that is what systems count."""
    wall_seconds: float = 15.0
    """Time of the whole sample by the clock; generous, for machines are shared."""
    memory_mib: int = 1024
    """Address space of a process, MiB."""
    file_mib: int = 16
    """Largest file, MiB."""
    processes: int = 16
    """Processes and threads, the sandbox's own included."""
    files: int = 64
    """Open files of a process."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise ConfigError(name, f"got {value}, must be at least 1.")


@dataclass(frozen=True, kw_only=True)
class Sandbox:
    """How a file of `inside` is started.

    Args:
        bwrap: path of bubblewrap; empty runs with limits alone.
        python: interpreter of the programs.
    """

    bwrap: str
    python: str = sys.executable

    @property
    def name(self) -> str:
        """`bubblewrap` or `unsafe`, as reports call it."""
        return "bubblewrap" if self.bwrap else "unsafe"

    def start(self, script: str, limits: Limits, *arguments: object, pass_fds: Sequence[int] = (), **pipes: Any) -> subprocess.Popen[bytes]:
        """Start a file of `inside` under limits, in a session of its own.

        Args:
            script: the file.
            limits: it takes on.
            arguments: behind the limits on its command line.
            pass_fds: open files it gets.
            pipes: `stdin`, `stdout`, `stderr`, `cwd` of `Popen`.
        """
        folder = INSIDE_SANDBOX if self.bwrap else str(INSIDE)
        words = [self.python, "-I", "-B", f"{folder}/{script}", self._limits(limits), *map(str, arguments)]
        options: dict[str, Any] = {"env": self.environment(), "start_new_session": True, **pipes}
        if not self.bwrap:
            return subprocess.Popen(words, pass_fds=pass_fds, **options)  # noqa: S603
        with tempfile.TemporaryFile() as calls:
            calls.write(call_filter(platform.machine()))
            calls.seek(0)
            command = [*self._wrapping(), "--seccomp", str(calls.fileno()), "--", *words]
            return subprocess.Popen(command, pass_fds=(*pass_fds, calls.fileno()), **options)  # noqa: S603

    def environment(self) -> dict[str, str]:
        """All that a program finds in its environment; libraries start no threads of their own."""
        return {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/tmp", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # noqa: S108

    def _wrapping(self) -> list[str]:
        """Bubblewrap and its options."""
        prefixes = dict.fromkeys((sys.base_prefix, sys.prefix, str(Path(self.python).resolve().parent.parent)))
        own = [path for path in prefixes if not path.startswith("/usr/") and path not in ("/", "/usr")]
        words = [self.bwrap, *NAMESPACES, "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
        # root gives up its id inside, with these two rights and for good; others are confined in a user namespace
        words += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"] if is_root() else ["--unshare-user", "--disable-userns"]
        # first, for the interpreter may lie below the system's /tmp
        words += ["--perms", "1777", "--size", str(TEMPORARY_BYTES), "--tmpfs", "/tmp"]  # noqa: S108
        devices = [f"/dev/{name}" for name in ("null", "zero", "urandom", "random")]
        for path in parents((*SYSTEM, *own, *devices)):  # by itself bwrap makes them for its own user alone
            words += ["--perms", "0755", "--dir", path] if path != "/tmp" else []  # noqa: S108
        for path in SYSTEM:
            words += ["--ro-bind-try", path, path]
        for path in own:
            words += ["--ro-bind", path, path]
        for path in devices:
            words += ["--dev-bind", path, path]
        words += ["--ro-bind", str(INSIDE), INSIDE_SANDBOX]
        return [*words, "--remount-ro", "/", "--chdir", "/tmp"]  # noqa: S108

    def _limits(self, limits: Limits) -> str:
        processes = limits.processes
        if not is_root() and (not self.bwrap or not counts_by_namespace()):
            processes += running_tasks(os.getuid())
        values: dict[str, Any] = {
            "cpu_seconds": limits.cpu_seconds,
            "memory_bytes": limits.memory_mib * MEBIBYTE,
            "file_bytes": limits.file_mib * MEBIBYTE,
            "files": limits.files,
            "processes": processes,
            # an id that nobody else has, for the system counts processes by id and does not count root's
            "uid": FIRST_FREE_UID + random.randrange(1_000_000_000) if self.bwrap and is_root() else None,  # noqa: S311
        }
        return json.dumps(values)


def open_sandbox(*, unsafe: bool = False) -> Sandbox:
    """The sandbox of this machine, tried once.

    Args:
        unsafe: do without one.

    Raises:
        EnvironmentFault: there is none, or it does not start; with the reason.
    """
    if unsafe:
        return Sandbox(bwrap="")
    fix = "install bubblewrap (apt-get install bubblewrap), score the samples on another machine, or accept the risk with --unsafe."
    found = shutil.which("bwrap")
    if found is None:
        raise EnvironmentFault("sandbox", "programs of a model are run by bubblewrap alone, and bwrap is not installed.", fix=fix)
    if platform.machine() not in MACHINES:
        raise EnvironmentFault(
            "sandbox", f"knows {' and '.join(MACHINES)}, this is {platform.machine()}.", fix="score the samples elsewhere."
        )
    sandbox = Sandbox(bwrap=found)
    why = fault(sandbox)
    if why:
        fix = "allow user namespaces (a container may need more rights), score the samples on another machine, or accept --unsafe."
        raise EnvironmentFault("sandbox", f"bwrap does not start here: {why}.", fix=fix)
    return sandbox


def fault(sandbox: Sandbox) -> str:
    """Why nothing can be started in it; empty when it can. `program.py` without a job ends at once."""
    try:
        with sandbox.start("program.py", Limits(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            told = process.communicate(timeout=PROBE_SECONDS)[1].decode(errors="replace")
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    lines = told.strip().splitlines() or [f"exit code {process.returncode}"]
    return "" if process.returncode == 0 else lines[-1].rstrip(".")


def parents(paths: Sequence[str]) -> list[str]:
    """Folders above the paths, from the top, each once; the root is not among them."""
    return list(dict.fromkeys(str(folder) for path in paths for folder in reversed(Path(path).parents) if folder != Path("/")))


def is_root() -> bool:
    """Whether this process has user id 0."""
    return os.geteuid() == 0


def counts_by_namespace() -> bool:
    """Whether Linux counts processes by user namespace (since 5.14), so that those outside do not count."""
    major, minor = (int("".join(filter(str.isdigit, part)) or 0) for part in platform.release().split(".")[:2])
    return (major, minor) >= (5, 14)


def running_tasks(uid: int) -> int:
    """Processes and threads a user has now."""
    count = 0
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if path.stat().st_uid == uid:
                count += sum(1 for _ in (path / "task").iterdir())
        except OSError:  # it has ended meanwhile
            continue
    return count
