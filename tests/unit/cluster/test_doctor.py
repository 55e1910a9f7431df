"""The doctor finds each fault and says what to do; it changes nothing and always reaches its end."""

import json
import locale
import os
import resource
import socket
import stat
from collections import namedtuple
from pathlib import Path

import pytest
from rank_table_samples import TWO_SERVERS

from mindformers_codellama.cli.main import main
from mindformers_codellama.cluster import doctor, doctor_machine, doctor_software
from mindformers_codellama.cluster.diagnosis import good
from mindformers_codellama.cluster.memory import available_memory
from mindformers_codellama.cluster.rank_table import RankTable
from mindformers_codellama.cluster.rank_table_make import make_rank_table
from mindformers_codellama.cluster.rank_table_merge import merge_rank_tables
from mindformers_codellama.cluster.shared_disk import disk_of, existing_part

NAMES = [
    *("python", "numpy", "mindspore", "msrun", "cann", "driver", "rank table", "hosts", "port", "output_dir"),
    *("shared disk", "disk", "memory", "limits", "locale"),
]


def a_table(*hosts: str) -> RankTable:
    return merge_rank_tables([make_rank_table(host, range(2), {0: f"10.9.{n}.1", 1: f"10.9.{n}.2"}) for n, host in enumerate(hosts)])


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


# the table and its hosts


def test_no_rank_table_is_one_machine():
    assert doctor_machine.check_table(None, None, None) == good("none given: one machine")
    assert doctor_machine.check_hosts(None).status == "ok"


def test_a_rank_table_with_warnings_and_with_errors(tmp_path):
    answers = {}
    for name, text in (("warned", TWO_SERVERS), ("wrong", TWO_SERVERS.replace('"rank_id": "9"', '"rank_id": "8"')), ("broken", "{")):
        path = tmp_path / f"{name}.json"
        path.write_text(text)
        found = {answer.name: answer.diagnosis for answer in _quick(rank_table=path, output_dir=tmp_path)}
        answers[name] = found["rank table"]
        assert str(path) in answers[name].fix
    assert [found.status for found in answers.values()] == ["warning", "failed", "failed"]
    assert "2 errors, the first:" in answers["wrong"].found
    assert "is not JSON" in answers["broken"].found


def _quick(*, rank_table: Path | None, output_dir: Path, port: int = 8118) -> list[doctor.Answer]:
    """Every check, without starting MindSpore."""
    patch = pytest.MonkeyPatch()
    with patch.context() as inner:
        inner.setattr(doctor_software, "check_mindspore", lambda: good("MindSpore 2.10.0"))
        return list(doctor.examine(rank_table=rank_table, output_dir=output_dir, port=port))


def test_hosts_that_do_not_resolve(monkeypatch):
    def fail(_name, _port):
        raise OSError

    monkeypatch.setattr("mindformers_codellama.cluster.rank_table_check.socket.getaddrinfo", fail)
    found = doctor_machine.check_hosts(a_table("node-a", "node-b"))
    assert (found.status, found.found) == ("failed", "the host node-a does not resolve; the host node-b does not resolve")


def test_this_machine_is_one_of_the_hosts():
    assert doctor_machine.check_hosts(a_table("127.0.0.1")).found == "all 1 resolve, this machine is 127.0.0.1"
    found = doctor_machine.check_hosts(a_table("192.0.2.7", "192.0.2.8"))
    assert (found.status, found.found) == ("warning", "none of 192.0.2.7, 192.0.2.8 is this machine")


# disks


MOUNTS = """\
/dev/sda1 / ext4 rw 0 0
server:/x /shared nfs4 rw 0 0
tmpfs /shared/local tmpfs rw 0 0
me@host:/y /home/me/far\\040away fuse.sshfs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind", "shared"),
    [
        ("/output", "ext4", False),
        ("/shared/output", "nfs4", True),
        ("/shared/local/output", "tmpfs", False),
        ("/sharedness", "ext4", False),
        ("/home/me/far away/output", "fuse.sshfs", True),
    ],
)
def test_the_disk_of_a_folder(tmp_path, path, kind, shared):
    (tmp_path / "mounts").write_text(MOUNTS)
    found = disk_of(Path(path), mounts=tmp_path / "mounts")
    assert (found.file_system, found.shared) == (kind, shared)


def test_a_disk_is_shared_when_shared_paths_names_it(tmp_path, monkeypatch):
    assert not disk_of(tmp_path / "output").shared
    monkeypatch.setenv("SHARED_PATHS", f"/elsewhere, {tmp_path}")
    assert disk_of(tmp_path / "output").shared
    monkeypatch.setenv("SHARED_PATHS", f"{tmp_path}/out")
    assert not disk_of(tmp_path / "output").shared


def test_only_several_servers_need_a_shared_disk(tmp_path, monkeypatch):
    monkeypatch.delenv("SHARED_PATHS", raising=False)
    assert doctor_machine.check_shared_disk(None, tmp_path).status == "ok"
    assert doctor_machine.check_shared_disk(a_table("10.0.0.1"), tmp_path).status == "ok"
    several = doctor_machine.check_shared_disk(a_table("10.0.0.1", "10.0.0.2"), tmp_path)
    assert (several.status, "SHARED_PATHS" in several.fix) == ("warning", True)
    monkeypatch.setenv("SHARED_PATHS", str(tmp_path))
    assert doctor_machine.check_shared_disk(a_table("10.0.0.1", "10.0.0.2"), tmp_path).status == "ok"


Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(("free", "status"), [(0.5e9, "failed"), (5e9, "warning"), (500e9, "ok")])
def test_room_on_the_disk(tmp_path, monkeypatch, free, status):
    monkeypatch.setattr(doctor_machine.shutil, "disk_usage", lambda _path: Usage(1e12, 0, free))
    found = doctor_machine.check_disk(tmp_path / "not/yet")
    assert found.status == status
    assert f"{free / 1e9:.1f} of 1000.0 GB free at {tmp_path}" in found.found


def test_a_disk_without_inodes(tmp_path, monkeypatch):
    state = namedtuple("state", "f_files f_favail f_bavail f_frsize f_blocks f_bfree")(1000, 0, 10**9, 4096, 10**9, 10**9)
    monkeypatch.setattr(doctor_machine.os, "statvfs", lambda _path: state)
    found = doctor_machine.check_disk(tmp_path)
    assert (found.status, "the inodes are used up" in found.found) == ("failed", True)


def test_an_output_dir_is_tried_and_left_as_it_was(tmp_path):
    assert doctor_machine.check_output_dir(tmp_path) == good(f"{tmp_path} can be written")
    assert doctor_machine.check_output_dir(tmp_path / "a/b") == good(f"can be created in {tmp_path}")
    assert not list(tmp_path.iterdir())


def test_an_output_dir_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file/output"):
        found = doctor_machine.check_output_dir(path)
        assert (found.status, found.found) == ("failed", f"{tmp_path}/file is a file")

    def refuse(**_named):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(doctor_machine.tempfile, "NamedTemporaryFile", refuse)
    found = doctor_machine.check_output_dir(tmp_path)
    assert (found.status, found.found) == ("failed", f"{tmp_path} cannot be written: Read-only file system")


def test_the_part_of_a_path_that_exists(tmp_path):
    assert existing_part(tmp_path / "a/b/c") == tmp_path
    assert existing_part(tmp_path) == tmp_path


# port


def test_a_port_that_is_held():
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen(1)
        port = holder.getsockname()[1]
        alone, two = doctor_machine.check_port(None, port), doctor_machine.check_port(a_table("127.0.0.1", "192.0.2.8"), port)
        assert (alone.status, f"port {port} of 127.0.0.1 is in use" in alone.found) == ("warning", True)
        assert (two.status, f"--master 127.0.0.1:{port + 1}" in two.fix) == ("failed", True)
    assert doctor_machine.check_port(None, port) == good(f"{port} of 127.0.0.1 is free")


def test_a_port_that_does_not_exist():
    assert [doctor_machine.check_port(None, port).status for port in (0, 65536, -1)] == ["failed"] * 3


def test_the_port_of_another_machine_is_not_judged_here():
    assert doctor_machine.check_port(a_table("192.0.2.7", "192.0.2.8"), 8118).found == "the scheduler runs on 192.0.2.7, not here"


# memory


@pytest.fixture
def machine(tmp_path):
    """A /proc with 16 GB available and no groups, and an empty /sys/fs/cgroup."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 32000000 kB\nMemAvailable:   16000000 kB\n")
    (tmp_path / "proc/self/cgroup").write_text("")
    (tmp_path / "cgroup").mkdir()
    return tmp_path


def _memory(machine: Path) -> tuple[int, str]:
    return available_memory(proc=machine / "proc", cgroup=machine / "cgroup")


def _group(folder: Path, names: tuple[str, str], limit: str, used: int, cache: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(cache)


V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes")
V2 = ("memory.max", "memory.current")


def test_memory_of_a_machine_without_limits(machine):
    assert _memory(machine) == (16_384_000_000, "machine")
    (machine / "proc/self/cgroup").write_text("4:memory:/\n0::/\n")
    _group(machine / "cgroup", V2, "max", 10**9, "")
    _group(machine / "cgroup/memory", V1, "9223372036854771712", 10**9, "")
    assert _memory(machine) == (16_384_000_000, "machine")


def test_a_group_limits_memory_in_both_versions_and_its_page_cache_is_free(machine):
    (machine / "proc/self/cgroup").write_text("0::/job\n")
    _group(machine / "cgroup/job", V2, "4000000000", 3 * 10**9, "anon 1\ninactive_file 500000000\n")
    assert _memory(machine) == (1_500_000_000, "control group")
    (machine / "proc/self/cgroup").write_text("9:cpu:/\n4:cpuset,memory:/job\n")
    _group(machine / "cgroup/memory/job", V1, "4000000000", 3 * 10**9, "total_inactive_file 250000000\n")
    assert _memory(machine) == (1_250_000_000, "control group")


def test_the_tightest_group_above_a_process_counts(machine):
    (machine / "proc/self/cgroup").write_text("0::/job/rank\n")
    _group(machine / "cgroup/job/rank", V2, "max", 10**9, "")
    _group(machine / "cgroup/job", V2, "2000000000", 10**9, "")
    assert _memory(machine) == (10**9, "control group")


def test_a_container_sees_its_own_group_as_the_root(machine):
    (machine / "proc/self/cgroup").write_text("0::/../../outside\n")
    _group(machine / "cgroup", V2, "3000000000", 10**9, "")
    assert _memory(machine) == (2 * 10**9, "control group")


@pytest.mark.parametrize(("room", "status"), [(0.3e9, "failed"), (1.5e9, "warning"), (60e9, "ok")])
def test_memory_for_the_ranks_of_this_machine(monkeypatch, room, status):
    monkeypatch.setattr(doctor_machine, "available_memory", lambda: (2 * int(room), "machine"))
    found = doctor_machine.check_memory(a_table("127.0.0.1", "192.0.2.8"))
    assert (found.status, "for 2 ranks" in found.found) == (status, True)


# limits and locale


@pytest.mark.parametrize(
    ("files", "processes", "status", "word"),
    [
        (256, 100_000, "warning", "ulimit -n"),
        (65535, 512, "warning", "ulimit -u"),
        (65535, 100_000, "ok", ""),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, "ok", ""),
    ],
)
def test_limits(monkeypatch, files, processes, status, word):
    limits = {resource.RLIMIT_NOFILE: files, resource.RLIMIT_NPROC: processes}
    monkeypatch.setattr(doctor_machine.resource, "getrlimit", lambda which: (limits[which], limits[which]))
    found = doctor_machine.check_limits()
    assert (found.status, word in found.fix) == (status, True)


def test_a_locale_that_is_not_utf8(monkeypatch):
    monkeypatch.setattr(locale, "getpreferredencoding", lambda _set=True: "ANSI_X3.4-1968")
    found = doctor_machine.check_locale()
    assert (found.status, "PYTHONUTF8=1" in found.fix) == ("warning", True)


# the command


def test_json_has_every_check_in_a_fixed_order(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(doctor_software, "check_mindspore", lambda: good("MindSpore 2.10.0"))
    monkeypatch.setattr(doctor_machine, "available_memory", lambda: (10**11, "machine"))
    monkeypatch.setattr(doctor_machine.shutil, "disk_usage", lambda _path: Usage(1e12, 0, 1e12))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert main(["doctor", "--json", "--output-dir", str(tmp_path), "--port", str(port)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"ok", "checks"}
    assert found["ok"] is True
    assert [check["name"] for check in found["checks"]] == [*NAMES, "kernels"]
    for check in found["checks"]:
        assert set(check) == {"name", "status", "found", "fix"}
        assert check["status"] in {"ok", "warning", "failed"}
        assert bool(check["fix"]) == (check["status"] != "ok"), check


def test_a_failure_gives_exit_code_8_and_says_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(doctor_software, "check_mindspore", lambda: good("MindSpore 2.10.0"))
    (tmp_path / "file").write_text("")
    assert main(["doctor", "--output-dir", str(tmp_path / "file")]) == 8
    text = capsys.readouterr().out
    assert f"failed   output_dir   {tmp_path}/file is a file\n                      fix: choose another output_dir.\n" in text
    assert text.rstrip().splitlines()[-1].startswith("failed: ")
    assert "\033[" not in text  # no colours in a pipe


def test_colours_are_for_terminals_alone(monkeypatch):
    from mindformers_codellama.cli.doctor import as_text

    assert as_text(doctor.Answer("disk", good("full")), coloured=True).startswith("\033[32mok")


def test_a_check_that_breaks_is_an_answer_too(tmp_path, monkeypatch):
    def broken():
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(doctor_machine, "check_limits", broken)
    answers = _quick(rank_table=None, output_dir=tmp_path)
    assert [answer.name for answer in answers] == NAMES
    limits = dict(answers)["limits"]
    assert (limits.status, limits.found) == ("failed", "the check itself failed: ZeroDivisionError: division by zero")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_of_somebody_else(tmp_path):
    tmp_path.chmod(0o500)
    assert doctor_machine.check_output_dir(tmp_path).status == "failed"
