"""Addresses of the devices' own network cards, which HCCL talks over."""

from __future__ import annotations

import ipaddress
import logging
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from mindformers_codellama.cluster.rank_table_check import SIMULATED
from mindformers_codellama.errors import ClusterError

logger = logging.getLogger(__name__)

HCCN_CONF = Path("/etc/hccn.conf")
TOOL_SECONDS = 20
"""`hccn_tool` answers at once; a driver that hangs must not hang us."""
MOST_SIMULATED = SIMULATED.num_addresses - 2


def read_device_ips(device_ids: Sequence[int], *, hccn_conf: Path = HCCN_CONF) -> dict[int, str]:
    """Device to address: from `hccn_tool -i N -ip -g` for all devices, else from the lines `address_N=...` of hccn.conf.

    Raises:
        ClusterError: neither knows every device.
    """
    faults: list[str] = []
    for ask, source in ((_ask_tool, ""), (_read_conf, str(hccn_conf))):
        addresses, fault = ask(device_ids, source)
        if not fault:
            logger.info("device addresses from %s", source or "hccn_tool")
            return {device: addresses[device] for device in device_ids}
        faults.append(fault)
    fix = "run this where the NPUs are, or --simulate to invent addresses: such a table works on CPU only."
    raise ClusterError("device addresses", f"cannot be found: {'; '.join(faults)}.", fix=fix)


def simulated_device_ips(device_ids: Sequence[int]) -> dict[int, str]:
    """Device N gets address N+1 of 192.0.2.0/24, which no network card has (RFC 5737): a reader can see that it is invented.

    Raises:
        ClusterError: a device number above 253.
    """
    if max(device_ids) >= MOST_SIMULATED:
        raise ClusterError("--simulate", f"has addresses for devices 0 to {MOST_SIMULATED - 1}, got device {max(device_ids)}.")
    return {device: str(SIMULATED[device + 1]) for device in device_ids}


def _ask_tool(device_ids: Sequence[int], _source: str) -> tuple[Mapping[int, str], str]:
    tool = shutil.which("hccn_tool")
    if tool is None:
        return {}, "hccn_tool is not on PATH"
    addresses = {}
    for device in device_ids:
        try:
            done = subprocess.run(  # noqa: S603  arguments are ours, no shell
                [tool, "-i", str(device), "-ip", "-g"], capture_output=True, text=True, errors="replace", timeout=TOOL_SECONDS
            )
        except subprocess.TimeoutExpired:
            return {}, f"hccn_tool did not answer within {TOOL_SECONDS} s for device {device}"
        except OSError as error:
            return {}, f"hccn_tool cannot be run: {error.strerror}"
        found = re.search(r"(?m)^\s*ip\s?addr(?:ess)?\s*:\s*(\S+)\s*$", done.stdout)
        if done.returncode or found is None or not _is_address(found[1]):
            said = " ".join((done.stdout + done.stderr).split())[:200] or "nothing"
            return {}, f"hccn_tool gives no address for device {device} (it says: {said})"
        addresses[device] = found[1]
    return addresses, ""


def _read_conf(device_ids: Sequence[int], source: str) -> tuple[Mapping[int, str], str]:
    try:
        text = Path(source).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        return {}, f"{source} cannot be read ({error.strerror})"
    lines = re.findall(r"(?m)^\s*address_(\d+)\s*=\s*(\S*)\s*$", text)
    addresses = {int(number): address for number, address in lines}
    for device in device_ids:
        if device not in addresses:
            return {}, f"{source} has no line address_{device}="
        if not _is_address(addresses[device]):
            return {}, f'{source} gives "{addresses[device]}" for device {device}, which is not an address'
    return addresses, ""


def _is_address(word: str) -> bool:
    try:
        ipaddress.ip_address(word)
    except ValueError:
        return False
    return True
