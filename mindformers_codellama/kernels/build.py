"""Compile `csrc/` into one shared library with the system's C++ compiler; needs nothing but Python.

    python -m mindformers_codellama.kernels.build                       # into this package
    python -m mindformers_codellama.kernels.build --output ./lib.so --levels avx512,portable

setup.py runs this file at installation. Sources in `csrc/levels/` are compiled once per level, the others once.
Beside the library lies a JSON file with its version and checksum, which loading compares.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

VERSION = 1
"""Of the entry points; raise it with every change of one."""
NAME = "libcodellama_kernels.so"
SOURCES = Path(__file__).resolve().parents[1] / "csrc"

FLAGS = (
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Wno-maybe-uninitialized",  # and the next: GCC 12 warns of its own AVX-512 headers
    "-Wno-uninitialized",
    "-ffp-contract=off",
    "-pthread",
)
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
    "aarch64": {"portable": ()},
}
"""Machine to level to compiler flags."""


class BuildError(Exception):
    """No compiler, or it refused a source."""


def find_compiler() -> str:
    """The C++ compiler: `$CXX`, else g++, clang++ or c++.

    Raises:
        BuildError: none is found.
    """
    for name in (os.environ.get("CXX", ""), "g++", "clang++", "c++"):
        if name and shutil.which(name.split()[0]):
            return name
    raise BuildError("no C++ compiler found; install one (Debian: apt-get install g++) and install this package again.")


def build(output: Path, *, levels: tuple[str, ...] = (), extra: tuple[str, ...] = (), machine: str = "") -> None:
    """Compile everything that changed and link the library.

    Args:
        output: the library to write; objects are kept in a folder beside it for the next time.
        levels: compile only these; every one of the machine when empty. The others' tables are then those of `portable`.
        extra: further compiler and linker flags, for example `-fsanitize=address`.
        machine: `x86_64` or `aarch64`; this one's when empty.

    Raises:
        BuildError: no compiler, or what it said.
    """
    compiler = find_compiler().split()
    known = LEVELS.get(machine or platform.machine(), {"portable": ()})
    chosen = [level for level in known if not levels or level in levels]
    output.parent.mkdir(parents=True, exist_ok=True)
    folder = output.with_name(f"{output.name}.build")
    folder.mkdir(exist_ok=True)
    jobs: list[tuple[Path, Path, tuple[str, ...]]] = []
    jobs += [(source, folder / f"{source.stem}.o", ()) for source in sorted(SOURCES.glob("*.cpp"))]
    # Common code first, then levels from the least demanding: of an inline function in several objects the linker keeps the
    # first, which then runs on every machine.
    for level in known:
        compiled_as = level if level in chosen else "portable"
        flags = (f"-DCODELLAMA_LEVEL={level}", *known[compiled_as])
        jobs += [(source, folder / f"{source.stem}.{level}.o", flags) for source in sorted((SOURCES / "levels").glob("*.cpp"))]
    common = (*FLAGS, *extra, f"-DCODELLAMA_KERNELS_VERSION={VERSION}")
    with ThreadPoolExecutor(max(1, len(os.sched_getaffinity(0)))) as pool:
        list(pool.map(lambda job: _compile(compiler, common, *job), jobs))
    temporary = output.with_name(f".{output.name}.{os.getpid()}")
    _run([*compiler, "-shared", *common, "-o", str(temporary), *(str(made) for _, made, _ in jobs)])
    facts = {"version": VERSION, "sha256": hashlib.sha256(temporary.read_bytes()).hexdigest(), "levels": chosen, "compiler": compiler[0]}
    os.replace(temporary, output)
    output.with_suffix(".json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def _compile(compiler: list[str], common: tuple[str, ...], source: Path, made: Path, flags: tuple[str, ...]) -> None:
    words = [*compiler, *common, *flags, "-MMD", "-c", str(source), "-o", str(made)]
    stamp = made.with_suffix(".words")
    if made.exists() and stamp.exists() and stamp.read_text() == " ".join(words) and not _is_older(made):
        return
    _run(words)
    stamp.write_text(" ".join(words))


def _is_older(made: Path) -> bool:
    """Whether a source or header the object was made of is newer than it."""
    try:
        files = made.with_suffix(".d").read_text().replace("\\\n", " ").split()[1:]
        return any(Path(file).stat().st_mtime_ns > made.stat().st_mtime_ns for file in files)
    except OSError:
        return True


def _run(words: list[str]) -> None:
    done = subprocess.run(words, capture_output=True, text=True)  # noqa: S603 - the compiler
    if done.returncode:
        raise BuildError(f"{' '.join(words)}\n{done.stderr.strip()}")
    if done.stderr.strip():
        sys.stderr.write(done.stderr)


def main() -> int:
    """The command line above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name(NAME), help="library to write")
    parser.add_argument("--levels", default="", help="only these, by commas (faster to compile)")
    parser.add_argument("--flags", default="", help="further compiler flags")
    args = parser.parse_args()
    try:
        build(args.output, levels=tuple(filter(None, args.levels.split(","))), extra=tuple(args.flags.split()))
    except BuildError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
