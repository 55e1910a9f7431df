"""What `codellama doctor` says about the kernels: never a failure, since everything works without them."""

import pytest

from mindformers_codellama.cli.doctor import check_kernels
from mindformers_codellama.kernels import choose, library


@pytest.fixture(autouse=True)
def _forgets_the_library(monkeypatch):
    monkeypatch.delenv(choose.VARIABLE, raising=False)
    library._load.cache_clear()
    yield
    library._load.cache_clear()


def test_a_library_that_works():
    if not library.library_path().is_file():
        pytest.skip("the library was not built")
    found = check_kernels()
    assert found.status == "ok"
    assert f"level {library.usable_levels()[0]} (there are " in found.found
    assert f"{library.threads()} threads, built by " in found.found


def test_a_library_that_is_missing(monkeypatch, tmp_path):
    monkeypatch.setenv(library.PATH_VARIABLE, str(tmp_path / "lib.so"))
    found = check_kernels()
    assert found.status == "warning"
    assert "the kernel library is not there" in found.found
    assert found.fix.startswith(f"unset {library.PATH_VARIABLE}")


@pytest.mark.parametrize(
    ("word", "status", "told"),
    [("off", "warning", "switched off by CODELLAMA_KERNELS"), ("quick", "warning", "got 'quick'"), ("portable", "ok", "level portable")],
)
def test_what_the_environment_asks_for(monkeypatch, word, status, told):
    if not library.library_path().is_file():
        pytest.skip("the library was not built")
    monkeypatch.setenv(choose.VARIABLE, word)
    found = check_kernels()
    assert found.status == status
    assert told in found.found
