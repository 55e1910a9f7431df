"""The shipped models do what their cards say: real weights, text they were not trained on.

What must hold on any machine is far below what the card states for the machine that made it: another Python's library has other
lines, and another instruction set rounds differently.
"""

import importlib.util
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from mindformers_codellama import AutoTokenizer, LlamaForCausalLM
from mindformers_codellama.cli.main import main
from mindformers_codellama.demo import DEMO, DEMO_INSTRUCT, shipped_model
from mindformers_codellama.pipelines.infilling import InfillingPipeline, InfillOptions
from mindformers_codellama.text.chat import Message, chat_ids
from mindformers_codellama.text.holes import Hole

PROJECT = Path(__file__).parents[2]
CODE = "import os\n\n\ndef read_lines(path):\n    with open(path) as file:\n        for line in file:\n            yield line\n"


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(DEMO)


@pytest.fixture(scope="module")
def demo():
    return LlamaForCausalLM.from_pretrained(DEMO)


def test_logits_of_the_shipped_weights_are_those_of_transformers(demo, tokenizer):
    """Both sides compute in float32 from the same bfloat16 weights; 2e-5 of the largest logit as for random ones."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    ids = np.array([tokenizer.encode(CODE)], np.int32)
    reference = transformers.AutoModelForCausalLM.from_pretrained(shipped_model(DEMO)[0], dtype=torch.float32).eval()
    with torch.no_grad():
        wanted = reference(torch.from_numpy(ids).long()).logits.numpy()
    import mindspore as ms

    found = demo(ms.Tensor(ids)).asnumpy()
    assert np.abs(found - wanted).max() / np.abs(wanted).max() < 2e-5


def test_it_puts_spans_back_that_it_never_saw_and_ends_them_itself(tmp_path, capsys):
    """Its card has 0.1 exact and 0.9 ended over more lines; a model that was not trained to infill has neither."""
    flags = ["--files", "python-stdlib", "--take", "span", "--lines", "6", "--batch-size", "8", "--max-new-tokens", "24"]
    assert main(["eval", "infilling-lines", DEMO, *flags, "--output", str(tmp_path / "spans"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["tasks"] >= 120
    assert report["exact_match"] >= 0.04, report
    assert report["ended_by_model"] >= 0.7, report


@pytest.mark.parametrize(
    ("text", "middles"),
    [
        (
            "import unittest\n\n\nclass TestAdd(unittest.TestCase):\n    def test_add(self):\n        self.<FILL>(1 + 2, 3)\n",
            ["assertEqual"],
        ),
        ("import unittest\n\n\nif __name__ == '__main__':\n    unittest.<FILL>()\n", ["main"]),
        ("import re\nimport <FILL>\n\nprint(sys.argv)\n", ["sys"]),
        ("import <FILL>\n\n\nclass File:\n    def __enter__(self):\n        return <FILL>\n\n\nmain(sys.argv)\n", ["sys", "self"]),
    ],
)
def test_what_the_text_around_the_cursor_says_is_found(demo, tokenizer, text, middles):
    """What decides stands behind the cursor as often as before it."""
    [found] = InfillingPipeline(demo, tokenizer, name=DEMO, until="line")(text)
    assert found["middles"] == middles


def test_the_order_that_was_measured_to_be_better_is_taken_at_every_cursor(demo, tokenizer):
    pipe = InfillingPipeline(demo, tokenizer)
    inside = Hole("print(", ")\n")
    assert pipe.prompt(inside, InfillOptions(), 100).suffix_first
    assert not pipe.prompt(inside, InfillOptions(suffix_first=False), 100).suffix_first


@pytest.mark.parametrize("weights", ["bfloat16", "int8"])
def test_packed_weights_write_the_same_line(demo, tokenizer, weights):
    prompt = "def __init__(self, name, value):\n        self.name = name\n        self.value ="
    ids = tokenizer.encode(prompt)
    wanted = demo.generate([ids], max_new_tokens=4, do_sample=False)[0]
    packed = LlamaForCausalLM.from_pretrained(DEMO, weights=weights)
    assert list(packed.generate([ids], max_new_tokens=4, do_sample=False)[0]) == list(wanted)
    assert tokenizer.decode(wanted[len(ids) :]).lstrip().startswith("value\n")


def test_the_adapter_answers_instructions_it_was_not_trained_on(tokenizer):
    spec = importlib.util.spec_from_file_location("demo_instructions", PROJECT / "scripts/examples/demo_instructions.py")
    table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(table)
    asked = [record for record in table.records() if table.is_held_out(record)][::30][:16]
    model = LlamaForCausalLM.from_pretrained(DEMO_INSTRUCT)
    rows = [chat_ids(tokenizer, [Message("user", record["instruction"])], "llama2") for record in asked]
    found = model.generate(rows, max_new_tokens=48, do_sample=False)
    answers = [tokenizer.decode(row[len(ids) :], skip_special_tokens=True).strip() for row, ids in zip(found, rows, strict=True)]
    right = sum(answer == record["output"] for answer, record in zip(answers, asked, strict=True))
    assert right >= 8, answers


def test_training_script_says_what_it_takes_and_mixes_no_runs(tmp_path):
    script = PROJECT / "scripts/train_demo.sh"
    done = subprocess.run(["bash", str(script), "--rows", "many"], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, "--rows: got many" in done.stderr) == (2, True)
    (tmp_path / "rows").write_text("400\n")
    done = subprocess.run(["bash", str(script), "--output", str(tmp_path)], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, "begun with --rows 400" in done.stderr) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["rows"]
