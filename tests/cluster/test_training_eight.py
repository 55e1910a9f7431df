"""Data, model and stage axis together over eight ranks with everything on, and pipelines of four stages, against one process.

The bounds are those of `test_training_two`. Vocabulary and positions are cut, blocks are recomputed, moments are cut over the
data axis, the norm is clipped in every step, the loss scale moves, a step overflows, and every row trains on another number
of tokens.
"""

import pytest
from test_training_two import AGAIN, BOUNDS, DYNAMIC, ZERO
from training_case import Runs, config, differences, write_data

pytestmark = pytest.mark.timeout(1800)
MODEL = {"num_layers": 4}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eight")
    data = write_data(folder / "rows.mindrecord")
    made = Runs(folder)
    everything = {"model": MODEL, "runner_wrapper": DYNAMIC}
    references = {
        "one": (config(data, "", runner={"batch_size": 4, "gradient_accumulation_steps": 3}, **everything), {"poison": [4, None]}),
        "one_of_four": (config(data, "", model=MODEL, runner={"batch_size": 2, "gradient_accumulation_steps": 6}), {}),
        "one_grouped": (config(data, "", model=MODEL, runner={"batch_size": 8}), {}),
    }
    degrees = {"data_parallel": 2, "model_parallel": 2, "pipeline_stage": 2, "micro_batch_num": 3, "use_seq_parallel": True}
    eight = config(data, "", runner={"batch_size": 2}, parallel_config=degrees, parallel=ZERO, recompute_config=AGAIN, **everything)
    stages = {"pipeline_stage": 4, "micro_batch_num": 6}
    four = {
        "four_stages": (config(data, "", model=MODEL, runner={"batch_size": 2}, parallel_config=stages), {}),
        "two_by_two": (
            config(
                data, "", model=MODEL, runner={"batch_size": 2}, parallel=ZERO | {"full_batch": False},
                parallel_config={"data_parallel": 2, "model_parallel": 2, "use_seq_parallel": True, "vocab_emb_dp": False},
            ),
            {},
        ),
    }  # fmt: skip
    made.run(references, 1)
    made.run(four, 4)
    made.run({"eight": (eight, {"poison": [4, 5]})}, 8)
    return made


@pytest.mark.parametrize(("name", "reference"), [("eight", "one"), ("four_stages", "one_of_four"), ("two_by_two", "one_grouped")])
def test_many_ranks_train_as_one_process_does(runs, name, reference):
    found = differences(runs, name, reference)
    assert all(found[key] <= bound for key, bound in BOUNDS.items()), found


def test_the_overflow_of_one_rank_was_skipped_by_all_eight(runs):
    assert [line["overflow"] for line in runs.lines("eight")] == [False, False, False, True] + [False] * 6
