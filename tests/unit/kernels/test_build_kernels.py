"""Building the library: what is compiled when, with which levels, and what happens without a compiler."""

import ctypes
import json
import os
import platform
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from mindformers_codellama.kernels import build as builder
from mindformers_codellama.kernels.build import BuildError, NoCompilerError, build

ROOT = Path(__file__).resolve().parents[3]
HEADER = "int number();\n"
COMMON = '#include "number.h"\nextern "C" __attribute__((visibility("default"))) int Number() { return number(); }\n'
LEVEL = "namespace CODELLAMA_LEVEL { extern const int answer; const int answer = 7; }\n"
LEVELS_SEEN = """extern "C" __attribute__((visibility("default"))) int Levels() {
  int seen = 0;
#if defined(CODELLAMA_BUILT_AVX2)
  seen += 1;
#endif
#if defined(CODELLAMA_BUILT_AVX512)
  seen += 2;
#endif
  return seen;
}
int number() { return 42; }
"""

pytestmark = pytest.mark.skipif(shutil.which("g++") is None or platform.machine() != "x86_64", reason="needs g++ on x86_64")


@pytest.fixture(autouse=True)
def _no_named_compiler(monkeypatch):
    monkeypatch.delenv("CXX", raising=False)


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """Sources so small that they compile at once."""
    folder = tmp_path / "csrc"
    write_sources(folder)
    monkeypatch.setattr(builder, "SOURCES", folder)
    return folder


def write_sources(folder):
    (folder / "levels").mkdir(parents=True)
    for name, text in (("number.h", HEADER), ("op.cpp", COMMON), ("seen.cpp", LEVELS_SEEN), ("levels/answer.cpp", LEVEL)):
        (folder / name).write_text(text)


@pytest.fixture
def old_compiler(tmp_path, monkeypatch):
    """A compiler that does not know bfloat16 instructions, and counts what it compiles."""
    path = tmp_path / "old-g++"
    path.write_text(f'#!/bin/sh\necho call >>{tmp_path}/calls\ncase "$*" in *avx512bf16*) exit 1;; esac\nexec g++ "$@"\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CXX", str(path))
    return tmp_path / "calls"


def facts_of(library):
    return json.loads(library.with_suffix(".json").read_text())


def test_the_library_is_described_and_works(sources, tmp_path):
    library = tmp_path / "made/lib.so"
    assert build(library) == ["portable", "avx2", "avx512"]
    facts = facts_of(library)
    assert facts["version"] == builder.VERSION
    assert facts["machine"] == "x86_64"
    assert facts["levels"] == ["portable", "avx2", "avx512"]
    assert ctypes.CDLL(str(library)).Number() == 42
    assert ctypes.CDLL(str(library)).Levels() == 3
    assert sorted(path.name for path in library.parent.iterdir()) == ["lib.json", "lib.so", "lib.so.build"]


def test_the_same_sources_give_the_same_bytes(sources, tmp_path):
    build(tmp_path / "a/lib.so")
    build(tmp_path / "b/other.so", folder=tmp_path / "objects")
    assert (tmp_path / "a/lib.so").read_bytes() == (tmp_path / "b/other.so").read_bytes()
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["other.json", "other.so"]


def test_only_what_changed_is_compiled_again(sources, tmp_path, old_compiler):
    library = tmp_path / "lib.so"

    def calls():
        old_compiler.unlink(missing_ok=True)
        build(library)
        return len(old_compiler.read_text().splitlines())

    first = calls()
    asked = calls()  # for its levels; nothing is compiled
    made = library.stat().st_mtime_ns
    assert first > asked
    assert calls() == asked
    assert library.stat().st_mtime_ns == made
    os.utime(sources / "number.h")  # a newer date without another content
    assert calls() == asked
    (sources / "number.h").write_text(HEADER + "// said again\n")
    assert calls() == asked + 3  # one object, the link and the version in its description
    (sources / "seen.cpp").write_text(LEVELS_SEEN.replace("42", "43"))
    assert calls() == asked + 3
    assert ctypes.CDLL(str(library)).Number() == 43


def test_an_object_that_was_cut_off_or_a_damaged_library_is_made_again(sources, tmp_path):
    library = tmp_path / "lib.so"
    build(library)
    library.write_bytes(b"damaged")
    (tmp_path / "lib.so.build/op.unfinished").write_bytes(b"half an object")
    build(library)
    assert ctypes.CDLL(str(library)).Number() == 42


def test_objects_of_another_checkout_are_not_taken(sources, tmp_path, monkeypatch):
    build(tmp_path / "lib.so")
    other = tmp_path / "other/csrc"
    shutil.copytree(sources, other)
    (other / "seen.cpp").write_text(LEVELS_SEEN.replace("42", "43"))
    monkeypatch.setattr(builder, "SOURCES", other)
    build(tmp_path / "lib.so")
    assert ctypes.CDLL(str(tmp_path / "lib.so")).Number() == 43


def test_a_level_the_compiler_does_not_know_is_left_out(sources, tmp_path, old_compiler):
    assert build(tmp_path / "lib.so") == ["portable", "avx2"]
    assert facts_of(tmp_path / "lib.so")["levels"] == ["portable", "avx2"]
    assert ctypes.CDLL(str(tmp_path / "lib.so")).Levels() == 1


def test_levels_that_were_not_asked_for_are_not_offered(sources, tmp_path):
    assert build(tmp_path / "lib.so", levels=("avx2",)) == ["portable", "avx2"]
    assert ctypes.CDLL(str(tmp_path / "lib.so")).Levels() == 1


@pytest.mark.parametrize(
    ("named", "told"), [("/nonexistent", "CXX names /nonexistent, which is not there"), ("", "no C\\+\\+ compiler found")]
)
def test_without_a_compiler_it_says_what_to_install(sources, tmp_path, monkeypatch, named, told):
    monkeypatch.setenv("CXX", named)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoCompilerError, match=f"{told}; install one"):
        build(tmp_path / "lib.so")
    assert not (tmp_path / "lib.so").exists()


def test_a_source_that_does_not_compile_is_told_and_leaves_the_library_as_it_was(sources, tmp_path):
    build(tmp_path / "lib.so")
    before = (tmp_path / "lib.so").read_bytes()
    (sources / "op.cpp").write_text("nonsense")
    with pytest.raises(BuildError, match="nonsense"):
        build(tmp_path / "lib.so")
    assert (tmp_path / "lib.so").read_bytes() == before


def test_without_sources_it_says_where_they_would_be(tmp_path, monkeypatch):
    monkeypatch.setattr(builder, "SOURCES", tmp_path / "nothing")
    with pytest.raises(BuildError, match="no sources in"):
        build(tmp_path / "lib.so")


@pytest.fixture
def checkout(tmp_path):
    """A copy of what installing needs, with small sources."""
    folder = tmp_path / "checkout"
    shutil.copytree(
        ROOT / "mindformers_codellama",
        folder / "mindformers_codellama",
        ignore=shutil.ignore_patterns("__pycache__", "csrc", "libcodellama*"),
    )
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    write_sources(folder / "mindformers_codellama/csrc")
    return folder


def setup_py(checkout, *words, **environment):
    pytest.importorskip("setuptools", minversion="70.1")
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", *words], cwd=checkout, capture_output=True, text=True, env=os.environ | environment
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def names_in(archive):
    shutil.unpack_archive(archive, archive.parent / "content", "zip" if archive.suffix == ".whl" else "gztar")
    return [str(path.relative_to(archive.parent / "content")) for path in (archive.parent / "content").rglob("*")]


def test_a_wheel_holds_the_library_and_its_description_and_names_the_machine(checkout):
    setup_py(checkout, "bdist_wheel")
    (wheel,) = (checkout / "dist").iterdir()
    assert wheel.name.endswith("linux_x86_64.whl")
    kernels = [name for name in names_in(wheel) if "libcodellama" in name or "csrc" in name or name.endswith((".o", ".stamp"))]
    assert sorted(kernels) == [f"mindformers_codellama/kernels/libcodellama_kernels.{ending}" for ending in ("json", "so")]
    assert not list((checkout / "mindformers_codellama").rglob("libcodellama*")), "a build for a wheel changes nothing in the checkout"


def test_without_a_compiler_the_wheel_is_made_without_the_library(checkout):
    setup_py(checkout, "bdist_wheel")
    shutil.rmtree(checkout / "dist")
    said = setup_py(checkout, "bdist_wheel", CXX="/nonexistent")
    (wheel,) = (checkout / "dist").iterdir()
    assert "plain MindSpore operators will be used: CXX names /nonexistent" in said
    assert not [name for name in names_in(wheel) if "libcodellama" in name], "not even one of an earlier build"


def test_an_installation_in_place_puts_the_library_beside_its_module_and_nothing_else(checkout):
    setup_py(checkout, "build_ext", "--inplace")
    assert sorted(path.name for path in (checkout / "mindformers_codellama").rglob("libcodellama*")) == [
        "libcodellama_kernels.json",
        "libcodellama_kernels.so",
    ]
    assert list((checkout / "build/kernels").glob("*.o"))


def test_a_source_distribution_holds_the_sources_and_no_library(checkout):
    (checkout / "mindformers_codellama/kernels/libcodellama_kernels.so").write_bytes(b"")
    setup_py(checkout, "sdist")
    (archive,) = (checkout / "dist").iterdir()
    names = names_in(archive)
    assert [name for name in names if name.endswith("csrc/levels/answer.cpp")]
    assert [name for name in names if name.endswith("csrc/number.h")]
    assert not [name for name in names if "libcodellama" in name]
