"""The doctor finds each fault and says what to do; it changes nothing and always reaches its end."""

import json
import socket
from pathlib import Path

import pytest
from doctor_case import Usage, a_table
from rank_table_samples import TWO_SERVERS

from mindformers_codellama.cli.main import main
from mindformers_codellama.cluster import doctor, doctor_machine, doctor_software
from mindformers_codellama.cluster.diagnosis import good

NAMES = [
    *("python", "numpy", "mindspore", "msrun", "cann", "driver", "rank table", "hosts", "port", "output_dir"),
    *("shared disk", "disk", "memory", "limits", "locale"),
]


def _quick(*, rank_table: Path | None, output_dir: Path, port: int = 8118) -> list[doctor.Answer]:
    """Every check, without starting MindSpore."""
    patch = pytest.MonkeyPatch()
    with patch.context() as inner:
        inner.setattr(doctor_software, "check_mindspore", lambda: good("MindSpore 2.10.0"))
        return list(doctor.examine(rank_table=rank_table, output_dir=output_dir, port=port))


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
