"""tools/hccl_tools.py, tools/merge_hccl.py and `codellama rank-table` as a user runs them.

The files in tests/golden/rank_tables were written by the code of MindFormers' `hccl_tools.py` and `merge_hccl.py` (dev, 2024; help
texts and prints left out) with the `hccn_tool` below: order of keys, indent 4, no newline at the end.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mindformers_codellama.cli.main import main
from mindformers_codellama.cluster.device_ips import read_device_ips
from mindformers_codellama.cluster.rank_table_make import device_range, visible_device_ids
from mindformers_codellama.errors import ClusterError, ConfigError

ROOT = Path(__file__).resolve().parents[3]
GOLDEN = ROOT / "tests/golden/rank_tables"
HCCN_TOOL = """#!/bin/sh
echo "ipaddr:192.168.$(( $2 % 4 )).$(( 10 + $2 ))"
echo "netmask:255.255.255.0"
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty current folder, on a machine without hccn_tool and /etc/hccn.conf."""
    bins = tmp_path / "bin"
    bins.mkdir()
    monkeypatch.setenv("PATH", f"{bins}:/usr/bin:/bin")
    monkeypatch.setattr("mindformers_codellama.cli.rank_table.HCCN_CONF", tmp_path / "no.conf")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


def put_tool(folder: Path, text: str) -> None:
    tool = folder.parent / "bin/hccn_tool"
    tool.write_text(text)
    tool.chmod(0o755)


def make(*words: str) -> int:
    return main(["rank-table", "make", *words])


def test_the_tools_write_what_mindformers_writes(folder):
    put_tool(folder, HCCN_TOOL)
    for words in (
        ["--server_ip", "10.0.0.9"],
        ["--server_ip", "10.0.0.10"],
        ["--device_num", "[10,16)", "--server_ip", "10.0.0.11"],
    ):
        subprocess.run([sys.executable, ROOT / "tools/hccl_tools.py", *words], check=True, capture_output=True, timeout=60)
    files = sorted(path.name for path in folder.glob("hccl_8p*.json"))
    assert files == ["hccl_8p_01234567_10.0.0.10.json", "hccl_8p_01234567_10.0.0.9.json"]  # the shell's order
    subprocess.run([sys.executable, ROOT / "tools/merge_hccl.py", *files], check=True, capture_output=True, timeout=60)
    for golden in sorted(GOLDEN.iterdir()):
        assert (folder / golden.name).read_bytes() == golden.read_bytes(), golden.name


def test_a_simulated_table_for_cpu(folder, capsys):
    assert make("--device_num", "[0,4)", "--server_ip", "127.0.0.1", "--simulate") == 0
    said = capsys.readouterr()
    path = folder / "hccl_4p_0123_127.0.0.1.json"
    assert f"wrote {path}" in said.out
    assert "4 device addresses are simulated" in said.err
    devices = json.loads(path.read_text())["server_list"][0]["device"]
    assert [device["device_ip"] for device in devices] == ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"]
    assert main(["rank-table", "check", str(path)]) == 0


@pytest.mark.parametrize("devices", ["[0,8)", "[0,8]", "[0, 8)", "[4,8)", "[3,4)", "[0,1)"])
def test_check_accepts_what_make_writes(folder, devices, capsys):
    assert make("--device_num", devices, "--server_ip", "10.0.0.9", "--simulate") == 0
    (path,) = folder.iterdir()
    assert main(["rank-table", "check", str(path)]) == 0


@pytest.mark.parametrize(
    ("text", "per_node", "expected"),
    [
        ("[0,8)", 8, range(8)),
        ("[0,8]", 8, range(8)),
        ("[10,16)", 16, range(10, 16)),
        ("[10,16)", None, range(10, 16)),
        ("[0,16)", None, range(16)),
        ("[0,8)", None, range(8)),
        ("[0,16)", 16, range(16)),
        ("[4,12)", 16, range(4, 12)),
        ("[7,8)", 8, range(7, 8)),
    ],
)
def test_ranges_are_read_as_mindformers_reads_them(text, per_node, expected):
    assert device_range(text, per_node=per_node) == expected


@pytest.mark.parametrize(
    ("text", "per_node", "message"),
    [
        ("0,8", 8, r'must be a range such as "\[0,8\)"'),
        ("[0,8", 8, "must be a range"),
        ("[a,b)", 8, "must be a range"),
        ("[-1,4)", 8, "must be a range"),
        ("", 8, "must be a range"),
        ("[4,4)", 8, r"has no device in it. Fix: \[4,5\) is device 4 alone"),
        ("[6,5)", 8, "has no device in it"),
        ("[0,9)", 8, "goes up to device 8, but the server has 8"),
        ("[10,16)", 8, "goes up to device 15"),
        ("[10,17)", None, "goes up to device 16, but the server has 16"),
        ("[2,6)", None, "crosses the groups"),
        ("[3,6)", 8, r"crosses the groups 0-3 and 4-7. Fix: stay within one group, or take \[0,8\)."),
        ("[0,6)", 8, "crosses the groups"),
        ("[1,8)", 8, "crosses the groups"),
        ("[0,12)", 16, r"or take \[0,8\), or \[0,16\) on 16 devices"),
        ("[0,8)", 0, "--device_num_per_node: got 0, must be at least 1"),
    ],
)
def test_ranges_mindformers_refuses_and_empty_ones_are_refused(text, per_node, message):
    with pytest.raises(ConfigError, match=message):
        device_range(text, per_node=per_node)


def test_a_range_counts_the_visible_devices(folder):
    put_tool(folder, HCCN_TOOL)
    assert make("--device_num", "[0,4)", "--visible_devices", "4,5,6,7", "--server_ip", "10.0.0.9") == 0
    devices = json.loads((folder / "hccl_4p_0123_10.0.0.9.json").read_text())["server_list"][0]["device"]
    assert [(device["device_id"], device["device_ip"]) for device in devices] == [
        ("4", "192.168.0.14"),
        ("5", "192.168.1.15"),
        ("6", "192.168.2.16"),
        ("7", "192.168.3.17"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("4,5,6", "takes numbers 0 to 3 of them"),
        ("0,1,1,2", "device 1 is given twice"),
        ("0,1,x,3", "must be numbers"),
        ("", "must be numbers"),
    ],
)
def test_wrong_visible_devices_are_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        visible_device_ids(text, range(4))


def test_without_hccn_tool_the_addresses_come_from_hccn_conf(folder, capsys):
    conf = folder.parent / "hccn.conf"
    conf.write_text("address_0=192.168.1.1\nnetmask_0=255.255.255.0\n address_1 = 192.168.1.2 \n")
    assert make("--device_num", "[0,2)", "--server_ip", "10.0.0.9", "--hccn_conf", str(conf)) == 0
    devices = json.loads((folder / "hccl_2p_01_10.0.0.9.json").read_text())["server_list"][0]["device"]
    assert [device["device_ip"] for device in devices] == ["192.168.1.1", "192.168.1.2"]


@pytest.mark.parametrize(
    ("tool", "conf", "message"),
    [
        (None, None, "hccn_tool is not on PATH; .*hccn.conf cannot be read .*Fix: .*--simulate"),
        ("#!/bin/sh\nexit 1\n", None, r"gives no address for device 0 \(it says: nothing\)"),
        ("#!/bin/sh\necho no such device >&2\n", None, r"it says: no such device\)"),
        ("#!/bin/sh\necho ipaddr:none\n", None, "it says: ipaddr:none"),
        ("not a program", None, "hccn_tool cannot be run: Exec format error"),
        (None, "address_0=192.168.1.1\n", "has no line address_1="),
        (None, "address_0=192.168.1.1\naddress_1=\n", 'gives "" for device 1, which is not an address'),
    ],
    ids=["nothing", "failing", "complaining", "wrong", "foreign", "short", "empty"],
)
def test_addresses_nobody_knows_are_refused_with_every_reason(folder, tool, conf, message):
    if tool is not None:
        put_tool(folder, tool)
    path = folder.parent / "hccn.conf"
    if conf is not None:
        path.write_text(conf)
    with pytest.raises(ClusterError, match=message):
        read_device_ips([0, 1], hccn_conf=path)
    assert not list(folder.iterdir())


def test_a_tool_that_hangs_is_given_up(folder, monkeypatch):
    put_tool(folder, "#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr("mindformers_codellama.cluster.device_ips.TOOL_SECONDS", 0.2)
    with pytest.raises(ClusterError, match="did not answer within 0.2 s for device 0"):
        read_device_ips([0], hccn_conf=folder / "none.conf")


@pytest.mark.parametrize("server_ip", ["../x", "a b", "x" * 64])
def test_a_server_address_that_cannot_be_a_file_name_is_refused(folder, server_ip, capsys):
    assert make("--server_ip", server_ip, "--simulate") == 2
    assert "--server_ip: got" in capsys.readouterr().err
    assert not list(folder.iterdir())


def test_a_machine_whose_name_is_loopback_is_warned_of(folder, monkeypatch, capsys):
    monkeypatch.setattr("mindformers_codellama.cli.rank_table.own_address", lambda: "127.0.1.1")
    assert make("--simulate") == 0
    assert "stands for 127.0.1.1, which other machines cannot reach: give --server_ip" in capsys.readouterr().err


def test_a_machine_whose_name_does_not_resolve_is_told_to_give_it(folder, monkeypatch, capsys):
    def fail(_name):
        raise OSError

    monkeypatch.setattr("socket.gethostbyname", fail)
    assert make("--simulate") == 8
    assert "does not resolve. Fix: give this machine's address" in capsys.readouterr().err


def test_a_table_with_other_content_is_kept_without_force(folder, capsys):
    words = ("--device_num", "[0,2)", "--server_ip", "10.0.0.9", "--simulate", "--output", "table.json")
    assert make(*words) == 0
    assert make(*words) == 0
    assert "as before:" in capsys.readouterr().out
    (folder / "table.json").write_text("mine")
    assert make(*words) == 9
    assert "exists already, with other content. Fix: move it away, or --force" in capsys.readouterr().err
    assert (folder / "table.json").read_text() == "mine"
    assert make(*words, "--force") == 0
    assert json.loads((folder / "table.json").read_text())["server_count"] == "1"
    assert [path.name for path in folder.iterdir()] == ["table.json"]


def test_a_folder_that_cannot_be_written_is_one_line(folder, capsys):
    assert make("--server_ip", "10.0.0.9", "--simulate", "--output", "none/table.json") == 8
    assert "none/table.json: cannot be written: No such file or directory." in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_one_line(folder, capsys):
    folder.chmod(0o500)
    assert make("--server_ip", "10.0.0.9", "--simulate") == 8
    assert "cannot be written: Permission denied" in capsys.readouterr().err


def test_merging_sorts_by_number_and_counts_anew(folder, capsys):
    for name in ("10.0.0.10", "10.0.0.9", "node-b", "10.0.0.100"):
        assert make("--device_num", "[0,2)", "--server_ip", name, "--simulate") == 0
    files = sorted(str(path) for path in folder.iterdir())
    assert main(["rank-table", "merge", *files]) == 0
    table = json.loads((folder / "hccl_4s_8p.json").read_text())
    assert [server["server_id"] for server in table["server_list"]] == ["10.0.0.9", "10.0.0.10", "10.0.0.100", "node-b"]
    assert [device["rank_id"] for server in table["server_list"] for device in server["device"]] == list("01234567")
    assert table["server_count"] == "4"
    assert main(["rank-table", "check", "hccl_4s_8p.json"]) == 0


def test_merging_the_merged_table_again_is_refused_by_name(folder, capsys):
    for name in ("10.0.0.9", "10.0.0.10"):
        make("--server_ip", name, "--simulate")
    files = sorted(path.name for path in folder.iterdir())
    assert main(["rank-table", "merge", *files]) == 0
    capsys.readouterr()
    assert main(["rank-table", "merge", "hccl_2s_16p.json", *files]) == 9
    error = capsys.readouterr().err
    assert "10.0.0.9 is also in hccl_2s_16p.json:6: server_list[0].server_id. Fix: give each server once; leave merged tables out." in error


def test_merging_tells_what_is_wrong_with_each_file(folder, capsys):
    (folder / "a.json").write_text("{")
    (folder / "b.json").write_text('{"status": "initializing"}')
    assert main(["rank-table", "merge", "a.json", "b.json", "c*.json"]) == 9
    error = capsys.readouterr().err
    assert "a.json:1: is not JSON" in error
    assert 'b.json:1: status: is "initializing"' in error
    assert "c*.json: cannot be read" in error
    assert "Traceback" not in error


def test_check_says_everything_as_text_and_as_json(folder, capsys):
    table = json.loads((GOLDEN / "hccl_2s_16p.json").read_text())
    table["server_list"][1]["server_id"] = "10.0.0.9"
    table["server_list"][1]["device"][0]["rank_id"] = "7"
    table["server_count"] = "3"
    (folder / "bad.json").write_text(json.dumps(table, indent=4))
    assert main(["rank-table", "check", "bad.json"]) == 9
    text = capsys.readouterr().out
    for number, words in enumerate(["says 3, but 2", "10.0.0.9 is listed twice", "rank 7 is given twice", "rank 8 is missing"], 1):
        assert any(line.startswith(f"  {number}. ") and words in line for line in text.splitlines()), words
    assert main(["rank-table", "check", "bad.json", "--json"]) == 9
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"file", "ranks", "servers", "errors", "warnings"}
    assert len(found["errors"]) == 4
    assert set(found["errors"][0]) == {"where", "problem", "fix"}


def test_check_looks_hosts_up_when_asked(folder, monkeypatch, capsys):
    def fail(_name, _port):
        raise OSError

    monkeypatch.setattr("mindformers_codellama.cluster.rank_table_check.socket.getaddrinfo", fail)
    make("--device_num", "[0,2)", "--server_ip", "node-b", "--simulate", "--output", "t.json")
    assert main(["rank-table", "check", "t.json"]) == 0
    assert main(["rank-table", "check", "t.json", "--resolve"]) == 9
    assert "the host node-b does not resolve" in capsys.readouterr().out


def test_check_of_a_sound_table_says_so(folder, capsys):
    assert main(["rank-table", "check", str(GOLDEN / "hccl_8p_01234567_10.0.0.9.json")]) == 0
    assert capsys.readouterr().out.endswith("1 server, 8 ranks\n  10.0.0.9: ranks 0 to 7\nnothing is wrong.\n")
