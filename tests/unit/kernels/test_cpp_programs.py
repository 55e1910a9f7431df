"""Programs in C++ that test what Python cannot reach: the vectors of each level and the threads."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from mindformers_codellama.errors import EnvironmentFault
from mindformers_codellama.kernels import library
from mindformers_codellama.kernels.build import FLAGS, LEVELS, SOURCES, BuildError, find_compiler, known_levels

PROGRAMS = Path(__file__).with_name("programs")
SANITIZED = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover")
CROSS_COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64-static"
X86_LEVELS = tuple(LEVELS["x86_64"])


def run_program(tmp_path, compiler, *words, run=(), arguments=()):
    """Compile and run; its last words."""
    program = tmp_path / "program"
    built = subprocess.run([compiler, *FLAGS, f"-I{SOURCES}", *words, "-o", program], capture_output=True, text=True)
    if built.returncode and "cannot find" in built.stderr and "san" in built.stderr:
        pytest.skip("the compiler has no sanitizer libraries")
    assert built.returncode == 0, built.stderr
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}  # a preloaded sanitizer cannot fork
    done = subprocess.run([*run, program, *arguments], capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def compiler_with(level, machine="x86_64"):
    try:
        compiler = find_compiler()
    except BuildError as error:
        pytest.skip(str(error))
    if level not in known_levels([compiler], machine):
        pytest.skip(f"{compiler} does not know the instructions of {level}")
    return compiler


def machine_has(level):
    try:
        return level in library.usable_levels()
    except EnvironmentFault as fault:
        pytest.skip(str(fault))


def vectors_of(level, machine):
    return (f"-DCODELLAMA_LEVEL={level}", *LEVELS[machine][level], PROGRAMS / "simd_check.cpp")


@pytest.mark.parametrize("flags", [pytest.param((), id="plain"), pytest.param(SANITIZED, id="sanitized", marks=pytest.mark.slow)])
@pytest.mark.parametrize("level", X86_LEVELS)
def test_vectors_equal_scalar_code(tmp_path, level, flags):
    if not machine_has(level):
        pytest.skip(f"this machine has no {level}")
    assert run_program(tmp_path, compiler_with(level), *vectors_of(level, "x86_64"), *flags) == "ok"


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS["aarch64"])
def test_vectors_equal_scalar_code_on_an_emulated_aarch64(tmp_path, level):
    for tool in (CROSS_COMPILER, EMULATOR):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool} (Debian: apt-get install g++-aarch64-linux-gnu qemu-user-static)")
    assert run_program(tmp_path, CROSS_COMPILER, *vectors_of(level, "aarch64"), "-static", run=[EMULATOR]) == "ok"


@pytest.mark.parametrize("flags", [(), ("-O1", "-g", "-fsanitize=thread")], ids=["plain", "thread_sanitizer"])
def test_threads_do_what_callers_may_ask_of_them(tmp_path, flags):
    # ThreadSanitizer does not follow a fork of a process with threads
    forks = () if flags else ("forks",)
    words = (PROGRAMS / "parallel_stress.cpp", SOURCES / "parallel.cpp", *flags)
    assert run_program(tmp_path, compiler_with("portable"), *words, arguments=forks) == "ok"
