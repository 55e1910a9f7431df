"""Resharding for any layouts: there and back is the same, and a detour by the whole changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shards_case import STATE, STATE_TEXT, expected_part, model_layout, whole_tensors

from mindformers_codellama.checkpoint.ckpt_format import read_ckpt, write_ckpt
from mindformers_codellama.checkpoint.reshard import reshard
from mindformers_codellama.checkpoint.reshard_target import Target
from mindformers_codellama.checkpoint.reshard_write import ShardJob, ShardSource
from mindformers_codellama.layout.cuts import ModelLayout
from mindformers_codellama.layout.strategy_files import read_strategy, write_strategy

WHOLE = whole_tensors()
LAYOUTS = st.builds(
    model_layout,
    st.sampled_from([1, 2, 4]),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([1, 2, 4]),
    zero=st.booleans(),
    vocabulary=st.booleans(),
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "whole.ckpt"
    write_ckpt(path, {**WHOLE, **STATE, "codellama_train_state": STATE_TEXT}.items(), crc=True)
    return path


def cut(source: Path, destination: Path, target: Target, form: str = "ckpt") -> Path:
    shard_source = ShardSource(path=source)
    job = ShardJob(source=shard_source, target=target, destination=destination, form=form)
    reshard(job, shard_source.open())
    return destination


def files_of(folder: Path, ranks: int) -> list[bytes]:
    """The tensors and texts of every rank's file, in order; the name of the save, which is of the source, left out."""
    made = []
    for rank in range(ranks):
        found = read_ckpt(folder / f"rank_{rank}/checkpoint_{rank}.ckpt")
        text = str(found.pop("codellama_shard"))
        made.append(repr([(name, value if isinstance(value, str) else value.tobytes()) for name, value in found.items()]).encode())
        made.append(text.split('"save"')[0].encode() + text.split('"tensors"')[1].encode())
    return made


@settings(deadline=None, max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(LAYOUTS, LAYOUTS, st.sampled_from(["ckpt", "safetensors"]))
def test_there_and_back_and_by_way_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory, whole: Path, first: ModelLayout, second: ModelLayout, form: str
) -> None:
    folder = tmp_path_factory.mktemp("case")
    one = cut(whole, folder / "one", Target(model_layout=first), form)
    direct = cut(one, folder / "direct", Target(model_layout=second))
    back = cut(direct, folder / "back.ckpt", Target())
    joined = cut(one, folder / "joined.ckpt", Target())
    detour = cut(joined, folder / "detour", Target(model_layout=second))
    ranks = second.layout.ranks
    assert files_of(direct, ranks) == files_of(detour, ranks)
    end = None if form == "ckpt" else -17  # safetensors have no checksum to hand on
    assert joined.read_bytes() == back.read_bytes() == whole.read_bytes()[:end]


@settings(deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(LAYOUTS, st.booleans())
def test_every_rank_gets_what_numpy_cuts_by_table_and_by_strategy(
    tmp_path_factory: pytest.TempPathFactory, whole: Path, layout: ModelLayout, by_strategy: bool
) -> None:
    folder = tmp_path_factory.mktemp("case")
    for rank in range(layout.layout.ranks):
        write_strategy(folder / "strategy", layout, rank)
    target = Target(strategy=read_strategy(folder / "strategy")) if by_strategy else Target(model_layout=layout)
    parts = cut(whole, folder / "parts", target)
    for rank in range(layout.layout.ranks):
        held = read_ckpt(parts / f"rank_{rank}/checkpoint_{rank}.ckpt")
        wanted = {name: part for name, values in WHOLE.items() if (part := expected_part(name, values, layout, rank)) is not None}
        assert {name for name in held if not name.startswith("codellama_")} == {*wanted, *STATE}
        assert all(held[name].tobytes() == part.tobytes() for name, part in wanted.items())  # type: ignore[union-attr]
