"""Ours beside llama.cpp, transformers and torch: decode, prefill, start-up and training, in turns, in one run.

    bash benchmarks/install_peers.sh PEERS                                        # once
    python benchmarks/compare.py --peer-python PEERS/bin/python --models MODELS --prepare   # once: writes the model files
    python benchmarks/compare.py --peer-python PEERS/bin/python --models MODELS --write     # all rows, about 25 minutes on two quiet cores
    python benchmarks/compare.py --peer-python PEERS/bin/python --models MODELS --quick     # fewer samples, about 8 minutes
    python benchmarks/compare.py --rows decode-b1-1.1b-int8 load --dry-run        # what would run
    python benchmarks/compare.py --report benchmarks/RESULTS.jsonl --write        # the page again, from the samples

Every sample is a process of its own, so that two thread pools never share the cores; ours and the peers take turns, in an
order that is turned round from pair to pair, so that drift of the machine hits both. Nothing else may run meanwhile.
A side that is not installed is shown as "not run" with the reason.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

from jobs import MACHINE, Job
from prepare_models import prepare_models, warm_page_cache
from report import render
from results import Samples
from rows import GROUPS, ROWS, TRIAL, jobs_of
from run_jobs import Pythons, run_group, stderr_line, turns

HERE = Path(__file__).resolve().parent
PAGE, SAMPLES, PICTURE = HERE / "RESULTS.md", HERE / "RESULTS.jsonl", HERE / "roofline.png"


def arguments_from(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", metavar="ROW", help=f"default: all. Known: {', '.join(ROWS)}")
    parser.add_argument("--quick", action="store_true", help="fewer samples, without the long prompt and the plain operators")
    parser.add_argument("--pairs", type=int, help="samples of each job; default: two to five, by row")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of every engine (%(default)s)")
    parser.add_argument(
        "--models", type=Path, default=Path(tempfile.gettempdir()) / "codellama_benchmark_models", help="folder of model files"
    )
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter with llama_cpp and gguf (benchmarks/install_peers.sh)")
    parser.add_argument("--torch-python", default=sys.executable, help="interpreter with torch and transformers")
    parser.add_argument("--prepare", action="store_true", help="only write the model files")
    parser.add_argument("--dry-run", action="store_true", help="only list what would run")
    parser.add_argument("--report", type=Path, metavar="SAMPLES", help="no run: make the page of earlier samples")
    parser.add_argument("--samples", type=Path, help="where samples are kept; default: a temporary file, RESULTS.jsonl with --write")
    parser.add_argument("--write", action="store_true", help="write benchmarks/RESULTS.md, RESULTS.jsonl and roofline.png")
    parser.add_argument("--note", default="", help="a sentence for the page")
    parser.add_argument("--try", dest="try_out", action="store_true", help="only rows of a tiny model, in a minute: does everything run?")
    arguments = parser.parse_args(words)
    unknown = sorted(set(arguments.rows or ()) - set(ROWS))
    if unknown:
        parser.error(f"unknown row {', '.join(unknown)}; known: {', '.join(ROWS)}")
    for name in ("pairs", "threads"):
        if getattr(arguments, name) is not None and getattr(arguments, name) < 1:
            parser.error(f"--{name} is at least 1")
    return arguments


def row_names(arguments: argparse.Namespace) -> list[str]:
    """The rows asked for, in the order of the table."""
    if arguments.rows:
        return list(arguments.rows)
    wanted = TRIAL if arguments.try_out else [name for name in ROWS if name not in TRIAL]
    return [name for name in wanted if ROWS[name].quick or not arguments.quick]


def plan(arguments: argparse.Namespace) -> dict[str, tuple[list[Job], int]]:
    """Group to its jobs and pairs, in the order of the table."""
    groups: dict[str, list] = {}
    for name in row_names(arguments):
        groups.setdefault(ROWS[name].group, []).append(ROWS[name])
    planned = {}
    for group, rows in groups.items():
        pairs = arguments.pairs or (GROUPS[group].quick_pairs if arguments.quick else GROUPS[group].pairs)
        jobs = jobs_of(group, rows, threads=arguments.threads, models=str(arguments.models), quick=arguments.quick)
        if GROUPS[group].work == "inference":
            jobs.insert(0, Job(engine=MACHINE, threads=arguments.threads))
        planned[group] = (jobs, pairs)
    return planned


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def header(arguments: argparse.Namespace) -> dict[str, object]:
    """Where, when and how."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    hidden = {"--peer-python": "PEERS/bin/python", "--torch-python": "TORCH/bin/python", "--models": "MODELS", "--samples": "SAMPLES"}
    words = sys.argv[1:]
    words = [hidden.get(words[place - 1], word) if place else word for place, word in enumerate(words)]
    return {
        "date": str(date.today()),
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": arguments.threads,
        "memory": f"{memory:.0f} GiB",
        "system": f"Python {platform.python_version()}, {platform.system()} {platform.machine()}",
        "load": f"{os.getloadavg()[0]:.2f}",
        "command": f"python benchmarks/compare.py {shlex.join(words)}".strip(),
        "rows": row_names(arguments),
        "note": arguments.note,
    }


def measure(arguments: argparse.Namespace, path: Path) -> None:
    """Run the plan, one JSON line per sample."""
    planned = plan(arguments)
    pythons = Pythons(ours=sys.executable, llama_cpp=arguments.peer_python, torch=arguments.torch_python)
    prepare_models([job for jobs, _ in planned.values() for job in jobs], pythons, say=stderr_line)
    if arguments.prepare:
        return
    if os.getloadavg()[0] > 0.5:
        stderr_line(f"load average {os.getloadavg()[0]:.2f}: something else is running; figures will be wrong")
    start = time.perf_counter()
    with path.open("w", encoding="utf-8") as file:

        def keep(line: dict[str, object]) -> None:
            file.write(json.dumps(line) + "\n")
            file.flush()

        keep({"header": header(arguments)})
        for name, (jobs, pairs) in planned.items():
            if GROUPS[name].work == "first-token":
                warm_page_cache(jobs)
            run_group(name, jobs, pairs, pythons=pythons, keep=keep, say=stderr_line)
    stderr_line(f"measured for {(time.perf_counter() - start) / 60:.1f} minutes; samples in {path}")


def show_plan(arguments: argparse.Namespace) -> None:
    count = 0
    for name, (jobs, pairs) in plan(arguments).items():
        print(f"{name}: {pairs} pairs")
        for _, job in turns(jobs, 1):
            print(f"    {job.name} {' '.join(job.tasks)}".rstrip())
        count += len(jobs) * pairs
    print(f"{count} samples")


def main() -> None:
    arguments = arguments_from()
    if arguments.dry_run:
        show_plan(arguments)
        return
    path = arguments.report or arguments.samples or (SAMPLES if arguments.write else Path(tempfile.mkstemp(suffix=".jsonl")[1]))
    if arguments.report is None:
        measure(arguments, path)
        if arguments.prepare:
            return
    samples = Samples.read(path)
    if arguments.note:
        samples.header["note"] = arguments.note
    picture = ""
    if arguments.write:
        from roofline import draw

        picture = PICTURE.name if draw(samples, PICTURE) else ""
        PAGE.write_text(render(samples, picture=picture), encoding="utf-8")
        stderr_line(f"wrote {PAGE}")
        return
    print(render(samples))


if __name__ == "__main__":
    main()
