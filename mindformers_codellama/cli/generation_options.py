"""Arguments that `predict`, `chat` and `infill` share: where the model is, and how it generates."""

from __future__ import annotations

import argparse
import logging
from typing import TYPE_CHECKING, Any

from mindformers_codellama.config.weight_forms import WEIGHT_FORMS
from mindformers_codellama.errors import ConfigError
from mindformers_codellama.text.chat import CHAT_STYLES

if TYPE_CHECKING:
    from mindformers_codellama.pipelines.open_model import OpenedModel

logger = logging.getLogger(__name__)

WEIGHTS_HELP = "form the weights are held in: packed as bfloat16, int8 or int4 at load; auto takes what is there (docs/quantization.md)"
SAMPLING = ("temperature", "top_k", "top_p")
OPTIONS = (
    *("max_new_tokens", "max_length", "do_sample", *SAMPLING, "repetition_penalty"),
    *("num_beams", "length_penalty", "seed", "stop", "eos_token_id", "use_past"),
)
"""Argument names that are generation options."""


MODEL_HELP = "YAML file, Hugging Face directory, checkpoint with a manifest, or registry name"


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, its tokenizer, and how it is asked."""
    parser.add_argument("model", metavar="CONFIG|DIR", help=MODEL_HELP)
    group = add_opening_arguments(parser)
    group.add_argument(
        "--prompt-style", choices=sorted(CHAT_STYLES), help="how the model was trained to be asked; default: by its registry name"
    )
    group.add_argument("--system", default="", metavar="TEXT", help="system text of the chat styles")


def add_opening_arguments(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """How the model is opened; the group they are in."""
    group = parser.add_argument_group("model")
    group.add_argument("--load-checkpoint", "--load_checkpoint", default="", metavar="PATH", help=".ckpt, .safetensors or directory")
    group.add_argument("--tokenizer", default="", metavar="PATH", help="tokenizer.model, its directory, or a name such as codellama_tiny")
    group.add_argument(
        "--seq-length",
        type=int,
        metavar="N",
        help="positions for prompt and answer together; default: what the model says",
    )
    group.add_argument(
        "--dtype", choices=("float32", "float16", "bfloat16"), help="type of weights and products; default: the configuration's"
    )
    group.add_argument("--weights", choices=WEIGHT_FORMS, help=WEIGHTS_HELP)
    group.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="[NAME=]DIR",
        help="low-rank adapter in PEFT's files (docs/lora.md), merged into weights that are packed at load; in chat it may be repeated "
        "(not with packed weights): the first is used, /adapter changes it",
    )
    group.add_argument("--device", choices=("CPU", "Ascend"), help="default: the configuration's, CPU for a directory")
    group.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help="set a key of the YAML file; may be repeated"
    )
    return group


def add_generation_arguments(parser: argparse.ArgumentParser) -> None:
    """How the answer is made; what is not given stays as the configuration says."""
    group = parser.add_argument_group("generation")
    group.add_argument("--max-new-tokens", type=int, metavar="N", help="longest answer")
    group.add_argument("--max-length", type=int, metavar="N", help="longest prompt and answer together")
    group.add_argument("--do-sample", action=argparse.BooleanOptionalAction, help="draw tokens instead of taking the most likely")
    group.add_argument("--temperature", type=float, metavar="T", help="above 1 flattens, below 1 sharpens; with --do-sample")
    group.add_argument("--top-k", type=int, metavar="K", help="draw among the K most likely, 0 all; with --do-sample")
    group.add_argument("--top-p", type=float, metavar="P", help="draw among the fewest that reach probability P; with --do-sample")
    group.add_argument("--repetition-penalty", type=float, metavar="R", help="above 1 makes seen tokens less likely")
    group.add_argument("--num-beams", type=int, metavar="N", help="beam search with N beams")
    group.add_argument("--length-penalty", type=float, metavar="A", help="beam scores are divided by length to this power")
    group.add_argument("--seed", type=int, metavar="N", help="seed of the drawing, 0 when not given")
    group.add_argument("--stop", action="append", metavar="TEXT", help=r"end before this text (\n is a new line); may be repeated")
    group.add_argument("--eos-token-id", type=int, nargs="+", metavar="ID", help="token ids that end an answer")
    group.add_argument("--use-past", action=argparse.BooleanOptionalAction, help="keep keys and values of past positions")


def generation_options(arguments: argparse.Namespace, *, sampling: bool) -> dict[str, Any]:
    """The options that were given.

    Args:
        arguments: parsed.
        sampling: whether the configuration draws when nothing is said.
    """
    given = {name: getattr(arguments, name) for name in OPTIONS if getattr(arguments, name) is not None}
    if "stop" in given:
        given["stop"] = [unescape(text) for text in given["stop"]]
    idle = [f"--{name.replace('_', '-')}" for name in SAMPLING if name in given]
    if idle and not given.get("do_sample", sampling):
        logger.warning("%s has no effect without --do-sample.", ", ".join(idle))
    if given.get("do_sample") and given.get("num_beams", 1) > 1:
        logger.warning("--do-sample has no effect with --num-beams: beam search does not draw.")
    return given


def unescape(text: str) -> str:
    r"""`\n` and `\t` written out become a new line and a tab, as in MindFormers."""
    return text.replace("\\n", "\n").replace("\\t", "\t")


def open_from(arguments: argparse.Namespace, *, alone: str = "", infills: bool = False) -> OpenedModel:
    """The model the arguments name.

    Args:
        arguments: parsed.
        alone: what it is for, when that is refused on several ranks.
        infills: refuse a model that cannot fill in the middle.

    Raises:
        CodeLlamaError: as `pipelines.open_model.open_model`; ConfigError for `--set` without a YAML file.
    """
    from mindformers_codellama.pipelines.open_model import is_yaml, open_model

    if arguments.overrides and not is_yaml(arguments.model):
        raise ConfigError(
            "--set", "sets keys of a YAML file, but the model is not one.", fix="use --dtype or --seq-length, or give a YAML file."
        )
    if len(arguments.adapter) > 1 and alone != "chat":
        raise ConfigError("--adapter", f"got {len(arguments.adapter)} adapters; one can be used.", fix="give one, or merge them in turn.")
    return open_model(
        arguments.model,
        load_checkpoint=arguments.load_checkpoint,
        tokenizer=arguments.tokenizer,
        seq_length=arguments.seq_length,
        dtype=arguments.dtype,
        weights=arguments.weights,
        device=arguments.device,
        overrides=arguments.overrides,
        world_size=getattr(arguments, "world_size", None),
        alone=alone,
        infills=infills,
        adapters=arguments.adapter,
    )
