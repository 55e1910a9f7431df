"""Who decides about the kernels, and what happens when they cannot be used."""

import logging

import pytest

from mindformers_codellama.config.kernels_key import VARIABLE
from mindformers_codellama.config.read import read_run
from mindformers_codellama.errors import ConfigError, EnvironmentFault
from mindformers_codellama.kernels import choose, library


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    """A process in which nobody has chosen; level and threads are put back."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(choose, "_PROCESS", choose._Process())
    try:
        level = library.current_level()
    except EnvironmentFault as fault:
        pytest.skip(str(fault))
    yield
    library.use_level(level)


@pytest.fixture
def damaged(tmp_path):
    """The library is a file with another checksum."""
    path = tmp_path / "lib.so"
    path.write_bytes(library.library_path().read_bytes() + b"x")
    path.with_suffix(".json").write_text(library.library_path().with_suffix(".json").read_text())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(library.PATH_VARIABLE, str(path))
        library._load.cache_clear()
        yield path
    library._load.cache_clear()


def test_auto_is_the_level_of_the_library_and_off_is_none(caplog):
    assert choose.kernels_in_use() == library.current_level()
    assert choose.choose_kernels("off") is None
    assert choose.kernels_in_use() is None
    assert choose.choose_kernels("auto") == library.current_level()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_forced_level_is_used_and_auto_goes_back_to_the_best():
    best = library.current_level()
    assert choose.choose_kernels("portable") == library.current_level() == "portable"
    assert choose.choose_kernels("auto") == library.current_level() == best


def test_auto_leaves_a_level_that_somebody_else_chose():
    assert library.use_level("portable")
    assert choose.choose_kernels("auto") == "portable"


def test_the_environment_wins_over_the_key(monkeypatch):
    monkeypatch.setenv(VARIABLE, "off")
    assert choose.choose_kernels("portable") is None
    monkeypatch.setenv(VARIABLE, "fast")
    with pytest.raises(ConfigError, match="CODELLAMA_KERNELS: got 'fast'. Fix: one of auto, off, portable, avx2, avx512, neon."):
        choose.choose_kernels("auto")


def test_a_level_the_machine_lacks_is_refused_with_those_it_has():
    missing = "neon" if library.current_level() != "neon" else "avx2"
    with pytest.raises(ConfigError, match=rf"kernels: got '{missing}', which this machine .* write auto, or one of .*portable, off."):
        choose.choose_kernels(missing)


def test_ascend_computes_without_kernels_and_refuses_a_level():
    assert choose.choose_kernels("auto", device="Ascend") is None
    with pytest.raises(ConfigError, match="kernels: got 'portable', but the kernels do not run on Ascend"):
        choose.choose_kernels("portable", device="Ascend")


def test_a_damaged_library_is_told_once_and_plain_operators_take_over(damaged, caplog):
    assert choose.choose_kernels("auto") is None
    assert choose.choose_kernels("auto") is None
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "plain MindSpore operators" in record.getMessage()
    assert "damaged" in record.getMessage()


def test_a_damaged_library_stops_who_asked_for_a_level(damaged):
    with pytest.raises(EnvironmentFault, match="damaged"):
        choose.choose_kernels("portable")


def test_more_threads_than_cores_are_told_and_cut(monkeypatch, caplog):
    given = []
    monkeypatch.setattr(choose, "usable_cores", lambda: 2)
    monkeypatch.setattr(library, "set_threads", given.append)
    choose.choose_kernels("auto", threads=64)
    choose.choose_kernels("auto", threads=1)
    choose.choose_kernels("auto")
    assert given == [2, 1, 2]
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "runtime_num_threads: got 64, but this process may use 2 cores" in record.getMessage()


def test_plain_operators_hold_inside_of_their_block():
    with choose.plain_operators():
        assert choose.kernels_in_use() is None
    assert choose.kernels_in_use() is not None


@pytest.mark.parametrize(("written", "read"), [("off", "off"), ("False", "off"), ("avx2", "avx2")])
def test_the_key_is_read_as_it_is_written(tmp_path, written, read):
    path = tmp_path / "run.yaml"
    path.write_text(f"kernels: {written}\n")
    assert read_run(path).kernels == read


def test_another_word_is_refused_with_the_allowed_ones(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("kernels: sse\n")
    with pytest.raises(ConfigError, match="kernels: got 'sse'. Fix: one of auto, off, portable, avx2, avx512, neon."):
        read_run(path)
