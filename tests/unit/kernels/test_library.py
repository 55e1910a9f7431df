"""The kernel library is refused with a reason rather than trusted: files, versions, machines, and wrong numbers."""

import _ctypes
import ctypes
import hashlib
import json
import logging
import multiprocessing
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mindformers_codellama.errors import ConfigError, EnvironmentFault
from mindformers_codellama.kernels import library, library_file, self_test


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of the library that this process would load next."""
    path = library.library_path()
    if not path.is_file():
        pytest.skip("the library was not built")
    for file in (path, path.with_suffix(".json")):
        shutil.copy(file, tmp_path / f"lib{file.suffix}")
    monkeypatch.setenv(library.PATH_VARIABLE, str(tmp_path / "lib.so"))
    library._load.cache_clear()
    yield tmp_path / "lib.so"
    library._load.cache_clear()


def describe(path, **facts):
    file = path.with_suffix(".json")
    file.write_text(json.dumps(json.loads(file.read_text()) | facts))


def refuses(words):
    with pytest.raises(EnvironmentFault, match=words) as told:
        library.load_library()
    assert f"Fix: unset {library.PATH_VARIABLE}, or install this package again" in str(told.value)


def program(text, **environment):
    """Run in a process of its own, because a library once loaded stays."""
    return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, env=os.environ | environment)


def test_a_whole_library_is_loaded_and_says_what_it_is(copy):
    library.load_library()
    assert library.library_file().path == copy
    assert library.current_level() == library.usable_levels()[0]
    assert library.usable_levels()[-1] == "portable"
    assert library.threads() >= 1


def test_missing(copy):
    copy.unlink()
    refuses("lib.so: the kernel library is not there")


def test_a_folder_is_no_library(copy):
    copy.unlink()
    copy.mkdir()
    refuses("lib.so: the kernel library is not there")


def test_description_missing(copy):
    copy.with_suffix(".json").unlink()
    refuses(r"lib.json: does not describe the kernel library \(FileNotFoundError")


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"version": 1}', "\xff"])
def test_description_damaged(copy, text):
    copy.with_suffix(".json").write_bytes(text.encode("latin-1"))
    refuses("lib.json: does not describe the kernel library")


def test_cut_off(copy):
    content = copy.read_bytes()
    copy.write_bytes(content[: len(content) // 2])
    refuses("damaged")


def test_one_byte_changed(copy):
    content = bytearray(copy.read_bytes())
    content[len(content) // 2] ^= 1
    copy.write_bytes(content)
    refuses("damaged")


def test_another_version(copy):
    describe(copy, version=10**6)
    refuses(r"has version 1000000, this package needs \d+\.")


def test_another_machine(copy):
    describe(copy, machine="sparc")
    refuses("was built for sparc, this machine is")


def with_checksum(path, content):
    path.write_bytes(content)
    describe(path, sha256=hashlib.sha256(content).hexdigest())


def test_what_is_no_library_is_told_even_with_a_right_checksum(copy):
    with_checksum(copy, b"not a library")
    refuses("cannot be loaded")


def test_a_library_of_another_project(copy):
    with_checksum(copy, Path(_ctypes.__file__).read_bytes())
    refuses("cannot be loaded: .*undefined symbol: codellama_version")


def test_a_level_with_wrong_numbers_is_left_out_with_a_warning(copy, monkeypatch, caplog):
    best = library.usable_levels()[0]
    if best == "portable":
        pytest.skip("this machine has no other level")
    library._load.cache_clear()
    monkeypatch.setattr(library, "finds_fault", lambda call: "it computes 3 instead of 2" if library_level() == best else "")
    with caplog.at_level(logging.WARNING):
        library.load_library()
    assert best not in library.usable_levels()
    assert library.current_level() == library.usable_levels()[0] != best
    assert not library.use_level(best)
    assert caplog.text.count(f"level {best} is not used, because it computes wrong values on this machine: it computes 3") == 1


def library_level():
    """The level in use while the library is being loaded."""
    handle = ctypes.CDLL(str(library.library_path().resolve()))
    handle.codellama_level.restype = ctypes.c_char_p
    return handle.codellama_level().decode()


def test_wrong_numbers_at_every_level_refuse_the_library(copy, monkeypatch):
    monkeypatch.setattr(library, "finds_fault", lambda call: "it computes 3 instead of 2")
    refuses("computes wrong values on this machine: it computes 3 instead of 2")


def test_the_self_test_sees_one_wrong_number():
    for known in self_test.known_results():

        def call(name, inputs, outputs, wrong=known):
            right = next(k for k in self_test.known_results() if k.name == name and all(map(np.array_equal, k.inputs, inputs)))
            outputs[0][...] = right.result
            if right.name == wrong.name and all(map(np.array_equal, right.inputs, wrong.inputs)):
                outputs[0].flat[-1] += 1

        assert known.name in self_test.finds_fault(call)


def test_the_self_test_tells_an_entry_point_that_is_not_there():
    def call(name, inputs, outputs):
        raise AttributeError(f"undefined symbol: {name}")

    assert "undefined symbol" in self_test.finds_fault(call)


@pytest.mark.parametrize("given", ["-1", "many", "1.5", "99999999999"])
def test_spinning_time_must_be_microseconds(copy, monkeypatch, given):
    monkeypatch.setenv(library.SPIN_VARIABLE, given)
    with pytest.raises(ConfigError, match="must be microseconds from 0 to"):
        library.load_library()


def test_spinning_time_is_taken_from_the_environment(copy):
    text = "from mindformers_codellama.kernels import library; print(library.load_library().codellama_spin())"
    assert program(text, CODELLAMA_KERNEL_SPIN="7").stdout.split() == ["7"]


def norm(rows=64):
    y = np.empty((rows, 16), np.float32)
    library.call("RmsNorm", [np.full((rows, 16), 2, np.float32), np.ones(16, np.float32), np.zeros(1, np.float32)], [y])
    return y


@pytest.fixture
def _threads():
    """Put back afterwards."""
    try:
        before = library.threads()
    except EnvironmentFault as fault:
        pytest.skip(str(fault))
    yield
    library.set_threads(before)


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("count", [1, 2, 3, 40])
def test_more_threads_than_cores_are_slower_but_right(count):
    library.set_threads(count)
    assert library.threads() == count
    np.testing.assert_array_equal(norm(), 1)


@pytest.mark.skipif("CODELLAMA_SANITIZED" in os.environ, reason="a sanitizer's allocator does not survive a fork beside threads")
@pytest.mark.usefixtures("_threads")
def test_a_forked_process_computes_too():
    library.set_threads(2)
    norm()  # the threads are there
    with multiprocessing.get_context("fork").Pool(2) as pool:
        results = pool.map_async(norm, [64] * 4).get(timeout=60)
    assert all((result == 1).all() for result in results)


def test_a_process_with_one_core_has_one_thread(copy):
    one_core = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
    text = one_core + "from mindformers_codellama.kernels import library; print(library.threads())"
    assert program(text).stdout.split() == ["1"]


def test_checking_needs_no_mindspore(copy):
    text = "import sys; from mindformers_codellama.kernels import library; library.load_library(); print('mindspore' in sys.modules)"
    assert program(text).stdout.split() == ["False"]


def test_the_file_says_its_levels_and_compiler(copy):
    found = library_file.check_file(copy)
    assert "portable" in found.levels
    assert found.compiler
