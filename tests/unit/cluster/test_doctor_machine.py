"""What the doctor says about disks, the port, memory, limits and the locale."""

import locale
import os
import resource
import socket
from collections import namedtuple
from pathlib import Path

import pytest
from doctor_case import Usage, a_table

from mindformers_codellama.cluster import doctor_machine
from mindformers_codellama.cluster.diagnosis import good
from mindformers_codellama.cluster.memory import available_memory
from mindformers_codellama.cluster.shared_disk import disk_of, existing_part

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


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_of_somebody_else(tmp_path):
    tmp_path.chmod(0o500)
    assert doctor_machine.check_output_dir(tmp_path).status == "failed"
