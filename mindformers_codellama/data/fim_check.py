"""Whether rows are the infilling tasks a configuration asks for; rows are made before training, so here they are only judged."""

from __future__ import annotations

from pathlib import Path

from mindformers_codellama.config.sections_data import DatasetSection
from mindformers_codellama.data.manifest import Manifest
from mindformers_codellama.errors import DataError

_UNTOLD = {"line_rate": 0.0}
"""What manifests that are older than a rate mean by not naming it; no manifest of tasks leaves out the others."""


def fim_findings(file: Path, manifest: Manifest | None, section: DatasetSection) -> list[DataError]:
    """What `fim_rate`, `fim_spm_rate` and `fim_line_rate` of the section do not find in a file's manifest; one finding at most.

    Args:
        file: the data, for messages.
        manifest: beside it, or None.
        section: the dataset's settings.
    """
    given = {"rate": section.fim_rate, "spm_rate": section.fim_spm_rate, "line_rate": section.fim_line_rate}
    wanted = {name: value for name, value in given.items() if value is not None}
    made = manifest.fim if manifest is not None else {}
    if all(made.get(name, _UNTOLD.get(name)) == value for name, value in wanted.items()):
        return []
    asked = "the configuration asks for " + ", ".join(f"fim_{name}: {value:g}" for name, value in wanted.items())
    flags = " ".join(f"--fim-{name.replace('_', '-')} {value:g}" for name, value in wanted.items())
    again = f"prepare the data with --fim {flags}"
    if manifest is None:
        return [DataError(file, f"{asked}, but no manifest says how the file was made.", fix=f"{again}.")]
    if made:
        found = ", ".join(f"fim_{name}: {made.get(name, 0.0)}" for name in wanted)
        return [DataError(file, f"{asked}, but the file was made with {found}.", fix=f"write that, or {again}.")]
    if manifest.kind != "text":
        problem = f"{asked}, but rows of type {manifest.kind} hold no documents that could be infilling tasks."
        return [DataError(file, problem, fix="leave the keys out, or prepare source code with --text and --fim.")]
    problem = f"{asked}, but its documents were not made infilling tasks."
    return [DataError(file, problem, fix=f"{again} and the tokenizer of a model that can infill, or leave the keys out.")]
