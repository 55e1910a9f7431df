"""Names, shapes and counts of parameters, without building a network."""

import subprocess
import sys

import numpy as np
import pytest

from mindformers_codellama.config.families import FAMILIES
from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.errors import TokenizerError
from mindformers_codellama.layout.parameters import parameter_count, parameter_shapes
from mindformers_codellama.model.inputs import check_token_ids

PUBLISHED = {
    "codellama_7b": 6_738_546_688,
    "codellama_7b_python": 6_738_415_616,
    "codellama_13b": 13_016_028_160,
    "codellama_34b": 33_743_970_304,
    "codellama_70b": 68_976_910_336,
    "llama2_7b": 6_738_415_616,
    "llama2_13b": 13_015_864_320,
    "llama2_70b": 68_976_648_192,
}
"""Parameters of the published models: `total_size` of their safetensors index over bytes per value, 70B Code Llama from its sizes."""


def test_two_layers_have_the_21_names_of_mindformers():
    shapes = parameter_shapes(ModelConfig(num_layers=2, vocab_size=10))
    assert len(shapes) == 21
    assert shapes["model.tok_embeddings.embedding_weight"] == (10, 4096)
    assert shapes["model.layers.1.feed_forward.w2.weight"] == (4096, 11008)
    assert shapes["lm_head.weight"] == (10, 4096)


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_parameter_count_is_the_published_one(name):
    assert parameter_count(FAMILIES[name].config) == PUBLISHED[name]


def test_grouped_heads_narrow_keys_and_values():
    shapes = parameter_shapes(FAMILIES["codellama_34b"].config)
    assert shapes["model.layers.47.attention.wk.weight"] == (1024, 8192)
    assert shapes["model.layers.47.attention.wq.weight"] == (8192, 8192)


def test_shapes_are_known_without_mindspore():
    code = "import sys, mindformers_codellama.layout.parameters; sys.exit('mindspore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_token_id_outside_the_vocabulary_is_named():
    with pytest.raises(TokenizerError, match=r"prompt 3: token id 97 at \(1, 0\) is outside the model's vocabulary of 97"):
        check_token_ids(np.array([[1, 2], [97, -1]]), 97, where="prompt 3")
    with pytest.raises(TokenizerError, match=r"token id -1"):
        check_token_ids(np.array([-1]), 97, where="prompt 3")
    check_token_ids(np.array([0, 96]), 97, where="prompt 3")
