"""Checks of what is installed: Python, numpy, MindSpore, CANN, the driver."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mindformers_codellama.cluster.diagnosis import Diagnosis, bad, good, look

PYTHONS = ((3, 10), (3, 12))
MINDSPORES = ("2.9", "2.10")
CANN_FOR = {"2.9": "9.0"}
"""MindSpore to the CANN it is released for (MindFormers 1.9's installation page); 2.10's was not found."""
ASCEND = Path("/usr/local/Ascend")
CANN_FOLDERS = ("ascend-toolkit/latest", "cann", "nnae/latest")
DEVICES = Path("/dev")
IMPORT_SECONDS = 180
"""Importing MindSpore takes 2 s from a warm disk and a minute from a cold network disk."""
TOOL_SECONDS = 20
MARK = "codellama-doctor:"
PROGRAM = f"""
import json, mindspore, numpy
from mindspore import Tensor, mint
total = float(mint.sum(Tensor(numpy.ones((2, 3), numpy.float32)).reshape((3, 2))).asnumpy())
assert total == 6.0, total
print("{MARK}" + json.dumps(mindspore.__version__))
"""
NO_ASCEND = "no Ascend here: the CPU will be used"


def check_python() -> Diagnosis:
    """The interpreter's version."""
    found = f"Python {'.'.join(map(str, sys.version_info[:3]))} ({sys.executable})"
    if PYTHONS[0] <= tuple(sys.version_info[:2]) <= PYTHONS[1]:
        return good(found)
    return bad(found, "use Python 3.10, 3.11 or 3.12: MindSpore has wheels for these.")


def check_numpy() -> Diagnosis:
    """Numpy below 2, without importing it."""
    try:
        installed = version("numpy")
    except PackageNotFoundError:
        return bad("numpy is not installed", 'pip install "numpy>=1.25,<2".')
    if installed.split(".")[0].isdigit() and int(installed.split(".")[0]) >= 2:
        return bad(f"numpy {installed}", 'pip install "numpy>=1.25,<2": with numpy 2, MindSpore\'s Tensor.reshape raises SystemError.')
    return good(f"numpy {installed}")


def check_mindspore() -> Diagnosis:
    """MindSpore computes something, in a process of its own: what breaks there cannot break the doctor."""
    try:
        # -I would hide packages of the user's PYTHONPATH, which the job would use
        done = subprocess.run(  # noqa: S603  this interpreter, our program, no shell
            [sys.executable, "-c", PROGRAM], capture_output=True, text=True, errors="replace", timeout=IMPORT_SECONDS
        )
    except subprocess.TimeoutExpired:
        return bad(
            f"MindSpore did not answer within {IMPORT_SECONDS} s",
            "is the disk it is installed on slow or gone? Try: python -c 'import mindspore'.",
        )
    answer = re.search(rf"(?m)^{MARK}(.*)$", done.stdout)
    if done.returncode or answer is None:
        return _broken_mindspore(done.returncode, done.stderr)
    installed = str(json.loads(answer[1]))
    if ".".join(installed.split(".")[:2]) not in MINDSPORES:
        return bad(f"MindSpore {installed}", f'pip install "mindspore>=2.9,<2.11": this package is tested with {" and ".join(MINDSPORES)}.')
    return good(f"MindSpore {installed}")


def _broken_mindspore(code: int, stderr: str) -> Diagnosis:
    if "No module named 'mindspore'" in stderr:
        return bad("MindSpore is not installed", 'pip install "mindspore>=2.9,<2.11".')
    if code < 0:
        last = f"ended by signal {-code}"
    else:
        last = next((line for line in reversed(stderr.splitlines()) if line.strip()), f"exit code {code}")
    return bad(
        f"MindSpore cannot be used: {last.strip()[:300]}", "see it whole with: python -c 'import mindspore'; install it anew if it stays."
    )


def check_msrun() -> Diagnosis:
    """MindSpore's launcher is on PATH."""
    path = shutil.which("msrun")
    if path is None:
        beside = Path(sys.executable).with_name("msrun")
        fix = f"export PATH={beside.parent}:$PATH." if beside.exists() else "MindSpore installs it; `codellama launch` works without it."
        return look("msrun is not on PATH", fix)
    return good(path)


def find_cann(ascend: Path = ASCEND) -> tuple[Path | None, bool]:
    """CANN's folder, and whether the environment names it."""
    named = os.environ.get("ASCEND_HOME_PATH") or os.environ.get("ASCEND_TOOLKIT_HOME")
    if named:
        return Path(named), True
    return next((ascend / name for name in CANN_FOLDERS if (ascend / name).is_dir()), None), False


def check_cann(*, ascend: Path = ASCEND) -> Diagnosis:
    """CANN is there and in the environment; its absence is not a fault."""
    folder, named = find_cann(ascend)
    if folder is None:
        return good(NO_ASCEND)
    if not folder.is_dir():
        return bad(
            f"ASCEND_HOME_PATH names {folder}, which is not there", "source the set_env.sh of the CANN that is installed, or unset it."
        )
    installed = _version_in(
        [*sorted(folder.glob("*-linux/ascend_*_install.info")), *(folder / name for name in ("version.cfg", "version.info"))]
    )
    found = f"CANN {installed or 'of unknown version'} in {folder}"
    if not named:
        script = next((path for path in (folder / "set_env.sh", folder.parent / "set_env.sh") if path.is_file()), folder / "set_env.sh")
        return look(f"{found}, but not in the environment", f"source {script}, otherwise the CPU will be used.")
    wanted = _wanted_cann()
    if wanted and installed and not installed.startswith(f"{wanted}."):
        return look(found, f"the installed MindSpore is released for CANN {wanted}.")
    return good(found)


def check_driver(*, ascend: Path = ASCEND, devices: Path = DEVICES) -> Diagnosis:
    """The NPU driver answers; its absence is not a fault unless CANN is there."""
    info, tool = ascend / "driver/version.info", shutil.which("npu-smi")
    count = len([path for path in devices.glob("davinci[0-9]*") if path.name[7:].isdigit()]) if devices.is_dir() else 0
    if tool is None and not info.is_file() and not count:
        if find_cann(ascend)[0] is None:
            return good(NO_ASCEND)
        return look(
            "CANN is there, but no NPU driver", "install it, or give the container the driver and its devices; otherwise use the CPU."
        )
    found = f"driver {_version_in([info]) or 'of unknown version'}, {count} NPUs in {devices}"
    if not count:
        return look(found, "give the container its NPUs: --device=/dev/davinci0 ... --device=/dev/davinci_manager.")
    if tool is None:
        return look(f"{found}, but no npu-smi on PATH", "mount it into the container: -v /usr/local/bin/npu-smi:/usr/local/bin/npu-smi.")
    fault = _fault_of([tool, "info"])
    return bad(f"{found}, but npu-smi info {fault}", "the driver does not answer: see `npu-smi info` and dmesg.") if fault else good(found)


def _fault_of(command: Sequence[str]) -> str:
    """What went wrong with a command, or nothing."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=TOOL_SECONDS)  # noqa: S603  found on PATH
    except subprocess.TimeoutExpired:
        return f"did not answer within {TOOL_SECONDS} s"
    except OSError as error:
        return f"cannot be run: {error.strerror}"
    return f"ended with {done.returncode}: {' '.join((done.stderr or done.stdout).split())[:200]}" if done.returncode else ""


def _version_in(files: Sequence[Path]) -> str:
    """The value of the first `version=` line."""
    for file in files:
        try:
            found = re.search(
                r"(?im)^\s*(?:package_)?version\s*=\s*\[?\s*\"?([\w.\-]+)", file.read_text(encoding="utf-8", errors="replace")
            )
        except OSError:
            continue
        if found:
            return found[1]
    return ""


def _wanted_cann() -> str:
    try:
        return CANN_FOR.get(".".join(version("mindspore").split(".")[:2]), "")
    except PackageNotFoundError:
        return ""
