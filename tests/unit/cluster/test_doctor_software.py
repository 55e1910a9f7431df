"""What the doctor says about Python, numpy, MindSpore, CANN and the driver."""

import stat
from pathlib import Path

import pytest

from mindformers_codellama.cluster import doctor_software
from mindformers_codellama.cluster.diagnosis import good


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def no_ascend(tmp_path, monkeypatch):
    """A machine without CANN; PATH has one empty folder in front of the system's."""
    for name in ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return tmp_path


# Python, numpy, MindSpore


@pytest.mark.parametrize(("version", "status"), [((3, 9), "failed"), ((3, 10), "ok"), ((3, 12), "ok"), ((3, 13), "failed")])
def test_python(monkeypatch, version, status):
    monkeypatch.setattr(doctor_software.sys, "version_info", (*version, 1, "final", 0))
    assert doctor_software.check_python().status == status


@pytest.mark.parametrize(("version", "status"), [("1.26.4", "ok"), ("2.0.0", "failed"), ("2.4.6", "failed")])
def test_numpy(monkeypatch, version, status):
    monkeypatch.setattr(doctor_software, "version", lambda _name: version)
    found = doctor_software.check_numpy()
    assert (found.status, found.found) == (status, f"numpy {version}")
    assert status == "ok" or "numpy>=1.25,<2" in found.fix


def test_numpy_that_is_not_there(monkeypatch):
    def fail(_name):
        raise doctor_software.PackageNotFoundError

    monkeypatch.setattr(doctor_software, "version", fail)
    assert doctor_software.check_numpy().found == "numpy is not installed"


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ("print('codellama-doctor:\"2.10.0\"')", "ok", "MindSpore 2.10.0"),
        ("print('noise'); print('codellama-doctor:\"2.9.0.post1\"')", "ok", "MindSpore 2.9.0.post1"),
        ("print('codellama-doctor:\"2.1.0\"')", "failed", "MindSpore 2.1.0"),
        ("print('codellama-doctor:\"2.11.0\"')", "failed", "MindSpore 2.11.0"),
        ("import no_such_mindspore", "failed", "cannot be used: ModuleNotFoundError: No module named 'no_such_mindspore'"),
        ("raise ModuleNotFoundError(\"No module named 'mindspore'\")", "failed", "MindSpore is not installed"),
        ("import os; os.kill(os.getpid(), 11)", "failed", "cannot be used: ended by signal 11"),
        ("import sys; sys.exit(3)", "failed", "cannot be used: exit code 3"),
        ("pass", "failed", "cannot be used: exit code 0"),
        ("import time; time.sleep(60)", "failed", "did not answer within 2 s"),
    ],
)
def test_mindspore_that_is_broken_cannot_break_the_doctor(monkeypatch, body, status, words):
    monkeypatch.setattr(doctor_software, "PROGRAM", body)
    monkeypatch.setattr(doctor_software, "IMPORT_SECONDS", 2 if "sleep" in body else 60)
    found = doctor_software.check_mindspore()
    assert (found.status, words in found.found) == (status, True), found


def test_mindspore_as_it_is_here():
    pytest.importorskip("mindspore")
    assert doctor_software.check_mindspore().status == "ok"


def test_msrun(no_ascend):
    assert doctor_software.check_msrun().status == "warning"
    program(no_ascend / "bin/msrun", "#!/bin/sh\n")
    assert doctor_software.check_msrun() == good(str(no_ascend / "bin/msrun"))


# CANN and the driver


def test_a_machine_without_ascend_uses_the_cpu(no_ascend):
    for found in (doctor_software.check_cann(ascend=no_ascend), doctor_software.check_driver(ascend=no_ascend, devices=no_ascend)):
        assert (found.status, found.found) == ("ok", "no Ascend here: the CPU will be used")


@pytest.fixture
def cann(no_ascend, monkeypatch):
    """CANN 9.0.0 installed and in the environment, for MindSpore 2.9."""
    folder = no_ascend / "ascend-toolkit/latest"
    (folder / "aarch64-linux").mkdir(parents=True)
    (folder / "aarch64-linux/ascend_toolkit_install.info").write_text("package_name=Ascend-cann-toolkit\nversion=9.0.0\narch=aarch64\n")
    (folder.parent / "set_env.sh").write_text("")
    monkeypatch.setenv("ASCEND_HOME_PATH", str(folder))
    monkeypatch.setattr(doctor_software, "version", lambda _name: "2.9.0")
    return folder


def test_cann_in_the_environment(cann):
    assert doctor_software.check_cann() == good(f"CANN 9.0.0 in {cann}")


def test_cann_of_another_version_than_mindspore_is_released_for(cann):
    (cann / "aarch64-linux/ascend_toolkit_install.info").write_text("version=8.0.RC1\n")
    found = doctor_software.check_cann()
    assert (found.status, found.found) == ("warning", f"CANN 8.0.RC1 in {cann}")
    assert found.fix == "the installed MindSpore is released for CANN 9.0."


def test_cann_that_is_installed_but_not_sourced(cann, no_ascend, monkeypatch):
    monkeypatch.delenv("ASCEND_HOME_PATH")
    found = doctor_software.check_cann(ascend=no_ascend)
    assert found.status == "warning"
    assert f"source {cann.parent}/set_env.sh" in found.fix


def test_cann_that_is_gone(cann, monkeypatch):
    monkeypatch.setenv("ASCEND_HOME_PATH", str(cann / "gone"))
    found = doctor_software.check_cann()
    assert found.status == "failed"
    assert "which is not there" in found.found


def test_cann_without_a_driver(cann, no_ascend):
    found = doctor_software.check_driver(ascend=no_ascend, devices=no_ascend / "dev")
    assert (found.status, found.found) == ("warning", "CANN is there, but no NPU driver")


@pytest.mark.parametrize(
    ("smi", "devices", "status", "words"),
    [
        ("#!/bin/sh\nexit 0\n", 8, "ok", "driver 26.0.rc1, 8 NPUs"),
        ("#!/bin/sh\necho dcmi init failed >&2; exit 1\n", 8, "failed", "npu-smi info ended with 1: dcmi init failed"),
        ("not a program", 8, "failed", "npu-smi info cannot be run"),
        ("#!/bin/sh\nexec sleep 60\n", 8, "failed", "did not answer within 0.3 s"),
        ("#!/bin/sh\nexit 0\n", 0, "warning", "0 NPUs"),
        (None, 8, "warning", "no npu-smi on PATH"),
    ],
)
def test_the_driver(cann, no_ascend, monkeypatch, smi, devices, status, words):
    monkeypatch.setattr(doctor_software, "TOOL_SECONDS", 0.3 if "sleep" in (smi or "") else 10)
    (no_ascend / "driver").mkdir()
    (no_ascend / "driver/version.info").write_text("Version=26.0.rc1\n")
    (no_ascend / "dev").mkdir()
    for name in [*(f"davinci{n}" for n in range(devices)), "davinci_manager"]:
        (no_ascend / "dev" / name).touch()
    if smi is not None:
        program(no_ascend / "bin/npu-smi", smi)
    found = doctor_software.check_driver(ascend=no_ascend, devices=no_ascend / "dev")
    assert (found.status, words in found.found) == (status, True), found
