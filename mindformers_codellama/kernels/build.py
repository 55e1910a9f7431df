"""Compile `csrc/` into one shared library with the system's C++ compiler; needs nothing but Python.

    python -m mindformers_codellama.kernels.build                       # into this package
    python -m mindformers_codellama.kernels.build --output ./lib.so --levels avx512,portable

setup.py runs this file at installation, and scripts/environment.sh before anything else, which takes a moment when
nothing changed. Sources in `csrc/levels/` are compiled once per level, the others once. Beside the library lies a JSON
file with what it is and its checksum, which loading compares. Exit codes: 0 built, 3 no compiler, 1 anything else.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

VERSION = 1
"""Of the entry points; raise it with every change of one."""
NAME = "libcodellama_kernels.so"
SOURCES = Path(__file__).resolve().parents[1] / "csrc"
NO_COMPILER = 3
"""Exit code."""
SHOWN = 20
"""Lines of what the compiler says against a source."""

FLAGS = (
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Wno-maybe-uninitialized",  # of GCC 12's own AVX-512 header (its bug 105593), as the next
    "-Wno-uninitialized",
    "-ffp-contract=off",
    "-pthread",
)
LINK_FLAGS = ("-shared", "-Wl,-z,nodelete")
"""The threads' code must stay where it is even when whoever loaded the library lets go of it."""
LEVELS: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": {
        "portable": (),
        "avx2": ("-DCODELLAMA_AVX2", "-mavx2", "-mfma"),
        "avx512": (
            "-DCODELLAMA_AVX512",
            "-mavx512f",
            "-mavx512bw",
            "-mavx512dq",
            "-mavx512vl",
            "-mavx512vnni",
            "-mavx512bf16",
            "-mfma",
            "-mprefer-vector-width=512",
        ),
    },
    "aarch64": {"portable": (), "neon": ("-DCODELLAMA_NEON", "-march=armv8.2-a+dotprod")},
}
"""Machine to level to compiler flags."""


class BuildError(Exception):
    """The compiler refused a source, or there are no sources."""


class NoCompilerError(BuildError):
    """There is no compiler to ask."""


@dataclass(frozen=True)
class _Job:
    """One source and the object made of it."""

    source: Path
    made: Path
    words: tuple[str, ...]
    """Compiler and flags, without files."""


@dataclass
class _Hashes:
    """SHA-256 of files, each read once."""

    known: dict[str, str] = field(default_factory=dict)

    def of(self, path: str) -> str:
        """Hash of a file's bytes; empty when it cannot be read."""
        if path not in self.known:
            try:
                self.known[path] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
            except OSError:
                self.known[path] = ""
        return self.known[path]


def find_compiler() -> str:
    """The C++ compiler: `$CXX` when set, else g++, clang++ or c++.

    Raises:
        NoCompilerError: it is not there.
    """
    named = os.environ.get("CXX", "").strip()
    for name in (named,) if named else ("g++", "clang++", "c++"):
        if shutil.which(shlex.split(name)[0]):
            return name
    told = f"CXX names {named}, which is not there" if named else "no C++ compiler found"
    raise NoCompilerError(f"{told}; install one (Debian: apt-get install g++) and install this package again.")


def known_levels(compiler: list[str], machine: str) -> list[str]:
    """Levels of a machine whose flags the compiler takes; `portable` is always one."""
    levels = LEVELS.get(machine, {"portable": ()})
    return [level for level, flags in levels.items() if not flags or _takes(compiler, flags)]


def _takes(compiler: list[str], flags: tuple[str, ...]) -> bool:
    words = [*compiler, *flags, "-x", "c++", "-fsyntax-only", "-"]
    return subprocess.run(words, input="", capture_output=True, text=True).returncode == 0  # noqa: S603 - the compiler


def build(
    output: Path, *, levels: tuple[str, ...] = (), extra: tuple[str, ...] = (), machine: str = "", folder: Path | None = None
) -> list[str]:
    """Compile everything that changed and link the library; nothing is written when nothing changed.

    Args:
        output: the library to write; its description is written beside it with the ending `.json`.
        levels: compile only these; every one of the machine when empty. Levels that are left out, or whose flags the
            compiler does not know, are not offered at run time.
        extra: further compiler and linker flags, for example `-fsanitize=address`.
        machine: `x86_64` or `aarch64`; this one's when empty.
        folder: where objects are kept for the next time; `OUTPUT.build` when None.

    Returns:
        The levels in the library.

    Raises:
        NoCompilerError: there is none.
        BuildError: what the compiler said.
    """
    compiler = shlex.split(find_compiler())
    machine = machine or platform.machine()
    chosen = [level for level in known_levels(compiler, machine) if not levels or level in (*levels, "portable")]
    folder = folder or output.with_name(f"{output.name}.build")
    folder.mkdir(parents=True, exist_ok=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        common = (*compiler, *FLAGS, *extra, f"-DCODELLAMA_KERNELS_VERSION={VERSION}")
        hashes = _Hashes()
        jobs = _jobs(common, machine, chosen, folder)
        with ThreadPoolExecutor(_cores()) as pool:
            stamps = list(pool.map(lambda job: _compile(job, hashes), jobs))
        made_of = hashlib.sha256("\n".join((*common, *LINK_FLAGS, *stamps)).encode()).hexdigest()
        if not _is_made_of(output, made_of):
            _link((*common, *LINK_FLAGS), [job.made for job in jobs], output)
            facts = {"version": VERSION, "machine": machine, "levels": chosen, "compiler": _compiler_version(compiler), "made_of": made_of}
            _describe(output, facts)
    return chosen


def _cores() -> int:
    return max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def _jobs(common: tuple[str, ...], machine: str, chosen: list[str], folder: Path) -> list[_Job]:
    """Everything to compile, in the order of linking.

    Common code first, then levels from the least demanding: of an inline function in several objects the linker keeps the
    first, which then runs on every machine.
    """
    every, each = sorted(SOURCES.glob("*.cpp")), sorted((SOURCES / "levels").glob("*.cpp"))
    if not every or not each:
        raise BuildError(f"no sources in {SOURCES}: build from a checkout or a source distribution.")
    offered = tuple(f"-DCODELLAMA_BUILT_{level.upper()}" for level in chosen)
    jobs = [_Job(source, folder / f"{source.stem}.o", (*common, *offered)) for source in every]
    for level, flags in LEVELS.get(machine, {"portable": ()}).items():
        # tables of levels that are left out must exist for the linker; nothing chooses them
        words = (*common, f"-DCODELLAMA_LEVEL={level}", *(flags if level in chosen else ()))
        jobs += [_Job(source, folder / f"{source.stem}.{level}.o", words) for source in each]
    return jobs


def _compile(job: _Job, hashes: _Hashes) -> str:
    """Compile unless the object was made by the same words of the same files; the stamp that says so."""
    stamp, listed = job.made.with_suffix(".stamp"), job.made.with_suffix(".d")
    kept = _stamp_of(job, hashes)
    if kept and job.made.exists() and stamp.exists() and stamp.read_text() == kept:
        return kept
    stamp.unlink(missing_ok=True)
    unfinished = job.made.with_suffix(".unfinished")
    _run([*job.words, "-MMD", "-MF", str(listed), "-c", str(job.source), "-o", str(unfinished)])
    os.replace(unfinished, job.made)
    made = _stamp_of(job, hashes)
    stamp.write_text(made)
    return made


def _stamp_of(job: _Job, hashes: _Hashes) -> str:
    """Hash of the words and of every file of the project the object is made of; empty when these are not known yet."""
    try:
        files = job.made.with_suffix(".d").read_text().replace("\\\n", " ").replace("\\ ", "\0").split()[1:]
    except OSError:
        return ""
    files = [file.replace("\0", " ") for file in files]
    if str(job.source) not in files:
        return ""  # made of the same source elsewhere
    contents = [hashes.of(file) for file in files]
    return hashlib.sha256("\n".join((*job.words, job.source.name, *contents)).encode()).hexdigest()


def _link(words: tuple[str, ...], objects: list[Path], output: Path) -> None:
    temporary = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        _run([*words, "-o", str(temporary), *map(str, objects)])
        os.replace(temporary, output)
    finally:
        temporary.unlink(missing_ok=True)


def _describe(output: Path, facts: dict[str, object]) -> None:
    temporary = output.with_name(f".{output.stem}.json.{os.getpid()}")
    whole = {**facts, "sha256": hashlib.sha256(output.read_bytes()).hexdigest()}
    temporary.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, output.with_suffix(".json"))


def _is_made_of(output: Path, made_of: str) -> bool:
    """Whether the library is there, whole, and made of these objects."""
    try:
        facts = json.loads(output.with_suffix(".json").read_text(encoding="utf-8"))
        same: bool = facts["made_of"] == made_of and facts["sha256"] == hashlib.sha256(output.read_bytes()).hexdigest()
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return same


def _compiler_version(compiler: list[str]) -> str:
    """First line of `--version`."""
    done = subprocess.run([*compiler, "--version"], capture_output=True, text=True)  # noqa: S603 - the compiler
    return (done.stdout.strip().splitlines() or [shlex.join(compiler)])[0]


def _run(words: list[str]) -> None:
    done = subprocess.run(words, capture_output=True, text=True)  # noqa: S603 - the compiler
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        more = [f"... and {len(lines) - SHOWN} lines more"] if len(lines) > SHOWN else []
        raise BuildError("\n".join((shlex.join(words), *lines[:SHOWN], *more)))
    if done.stderr.strip():
        sys.stderr.write(done.stderr)


def own_folder() -> Path | None:
    """Of the objects of the library in this package: `build/kernels` of a checkout, None for beside the library."""
    root = SOURCES.parents[1]
    return root / "build" / "kernels" if (root / "setup.py").is_file() else None


def main() -> int:
    """The command line above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="library to write (default: the one of this package)")
    parser.add_argument("--levels", default="", help="only these, by commas (faster to compile)")
    parser.add_argument("--flags", default="", help="further compiler flags")
    parser.add_argument("--machine", default="", help="machine to build for (default: this one); name a compiler for it in CXX")
    args = parser.parse_args()
    output = args.output or Path(__file__).resolve().with_name(NAME)
    folder = None if args.output else own_folder()
    levels = tuple(filter(None, args.levels.split(",")))
    try:
        build(output, levels=levels, extra=tuple(shlex.split(args.flags)), machine=args.machine, folder=folder)
    except NoCompilerError as error:
        sys.stderr.write(f"warning: the C++ kernels were not built, plain MindSpore operators will be used: {error}\n")
        return NO_COMPILER
    except BuildError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
