"""The flags of MindFormers' two `convert_weight.py`, as arguments of `codellama convert`.

Source: mindformers 1.0 `mindformers/models/llama/convert_weight.py` and 1.1 `convert_weight.py`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

DESCRIPTION = "Convert Llama weights with MindFormers' flags. `codellama convert --help` shows the direct way."
EPILOG = """MindFormers 1.0 (the Code Llama card); always writes float16, as it did:
  python tools/convert_weight.py --torch_ckpt_dir CodeLlama-34b-hf --mindspore_ckpt_path codellama_34b.ckpt
  python tools/convert_weight.py --pre_ckpt_path old.ckpt --config_path params.json      # writes old_hf.ckpt
MindFormers 1.1 and later; keeps the type unless --dtype says otherwise:
  python tools/convert_weight.py --model llama --input_path CodeLlama-34b-hf --output_path codellama_34b.ckpt --dtype fp16
  python tools/convert_weight.py --model llama --input_path x.ckpt --output_path x-hf --reversed
"""


def convert_arguments(argv: Sequence[str]) -> list[str]:
    """Arguments of `codellama` that do what these MindFormers flags did.

    A relative `--mindspore_ckpt_path` lies under `--torch_ckpt_dir`. An existing output is refused
    without `--force`, where MindFormers overwrote it. Wrong flags end the program with argparse's message and exit code 2.
    """
    parser = _parser()
    given = parser.parse_args(argv)
    if given.pre_ckpt_path or given.config_path:
        return _old_layout(parser, given)
    if given.input_path or given.output_path or given.reversed or given.model:
        return _later_flags(parser, given)
    folder = Path(given.torch_ckpt_dir)
    target = folder / given.mindspore_ckpt_path  # an absolute path replaces the folder
    return ["convert", str(folder), str(target), "--to", "ms", "--dtype", "float16", *_passed(given)]


def _later_flags(parser: argparse.ArgumentParser, given: argparse.Namespace) -> list[str]:
    if given.model not in (None, "llama"):
        parser.error(f"--model {given.model}: only llama (Llama 2 and Code Llama) is supported here")
    if not given.input_path or not given.output_path:
        parser.error("--input_path and --output_path are both needed")
    source = Path(given.input_path)
    if source.suffix in (".bin", ".safetensors") and (source.parent / "config.json").is_file():
        source = source.parent  # MindFormers took any file of the directory
    words = ["convert", str(source), given.output_path, "--to", "hf" if given.reversed else "ms"]
    return [*words, "--dtype", given.dtype or "keep", *_passed(given)]


def _old_layout(parser: argparse.ArgumentParser, given: argparse.Namespace) -> list[str]:
    if not given.pre_ckpt_path or not given.config_path:
        parser.error("--pre_ckpt_path and --config_path (Meta's params.json) are both needed")
    source = Path(given.pre_ckpt_path)
    source = source if source.suffix == ".ckpt" else Path(f"{source}.ckpt")
    target = source.with_name(f"{source.stem}_hf.ckpt")
    return ["convert", str(source), str(target), "--to", "ms", "--rotary-pairs", given.config_path, *_passed(given)]


def _passed(given: argparse.Namespace) -> list[str]:
    return [*(["--config", given.config] if given.config else []), *(["--force"] if given.force else [])]


def _parser() -> argparse.ArgumentParser:
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("convert_weight.py", description=DESCRIPTION, epilog=EPILOG, formatter_class=style)
    parser.add_argument("--torch_ckpt_dir", default="./llama_model/llama-13b-hf/", help="Hugging Face or Meta directory")
    parser.add_argument("--mindspore_ckpt_path", default="transform.ckpt", help="output, under --torch_ckpt_dir unless absolute")
    parser.add_argument("--pre_ckpt_path", help="a .ckpt of an old MindFormers, whose wq and wk are in Meta's rotary order")
    parser.add_argument("--config_path", help="Meta's params.json of that .ckpt")
    parser.add_argument("--model", help="llama")
    parser.add_argument("--input_path", help="what to convert")
    parser.add_argument("--output_path", help="a .ckpt file; with --reversed a directory")
    parser.add_argument("--dtype", choices=("fp32", "fp16", "bf16"), help="type of every weight; kept when not given")
    parser.add_argument("--reversed", action="store_true", help="MindSpore to Hugging Face")
    parser.add_argument("--config", help="ours: YAML, config.json or model name, when --reversed needs it")
    parser.add_argument("--force", action="store_true", help="ours: replace an existing output")
    return parser
