"""`codellama infer`: exported graphs answer, with the flags of MindFormers' run_infer_main.py."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mindformers_codellama.cli.generation_options import unescape
from mindformers_codellama.cli.infer_ranks import agree, context_of, enter_job, place_of
from mindformers_codellama.config.mindformers_api import str2bool
from mindformers_codellama.errors import ConfigError, GenerationError, TokenizerError

if TYPE_CHECKING:
    from mindformers_codellama.config.generation import GenerationConfig
    from mindformers_codellama.mindir.manifest import ExportManifest
    from mindformers_codellama.pipelines.text_generation import TextGenerationPipeline

logger = logging.getLogger(__name__)

ASK = "Please enter your predict data: "
EXIT, OVER = "exit", "Task is over."
GENERAL = ("common", "llama", "llama2", "codellama")
"""Model names that name no size, and so no tokenizer."""
MAX_LENGTH, MAX_OUTPUT_LENGTH = 512, 128
SAMPLING = {"top_k": 1, "top_p": 1.0, "temperature": 1.0}
"""Options that only count when tokens are drawn, and their defaults."""

EXAMPLES = r"""examples:
  codellama infer --model_dir output --add_special_tokens True --predict_data "def add(a, b):\n"
  codellama infer --model_dir output --stream True                                  asks for prompts until "exit"
  codellama infer --prefill_model_path output/mindir_full_checkpoint/rank_0_graph.mindir \
      --increment_model_path output/mindir_inc_checkpoint/rank_0_graph.mindir --tokenizer_path tokenizer.model
  codellama infer --engine lite --config_path lite.ini --model_dir output --model_name codellama_7b --predict_data prompt
  codellama launch --ranks 2 -- infer --model_dir output --distributed True --predict_data "def add(a, b):\n"
see docs/lite.md
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """MindFormers' flags; `--engine` and `--key_file` are ours. Every flag may be written with dashes."""
    graphs = parser.add_argument_group("graphs")
    _flag(graphs, "model_dir", "", "DIR", "export directory (the one with export/manifest.json), instead of the next two")
    _flag(graphs, "prefill_model_path", "", "FILE", "graph that reads prompts: mindir_full_checkpoint/rank_N[_graph].mindir")
    _flag(graphs, "increment_model_path", "", "FILE", "graph that reads one more token: mindir_inc_checkpoint/rank_N[_graph].mindir")
    _flag(graphs, "key_file", "", "FILE", "key of encrypted graphs")
    _flag(graphs, "seq_length", None, "N", "positions of the graphs; checked (default: the export's)", kind=int)
    _flag(graphs, "dynamic", None, "BOOL", "False pads every call of dynamic graphs to seq_length (default: as exported)", kind=_truth)
    words = parser.add_argument_group("words")
    _flag(words, "model_name", "common", "NAME", "registry name; whose tokenizer is taken when none is named (%(default)s)")
    _flag(words, "tokenizer_path", "", "PATH", "tokenizer.model or its folder (default: the export's)")
    _flag(words, "add_special_tokens", False, "BOOL", "put the begin token before each prompt (%(default)s)", kind=_truth)
    _flag(words, "prompt", "", "TEXT", "text with {} where the prompt belongs")
    where = parser.add_argument_group("where it runs")
    _flag(where, "engine", "graph", "NAME", "graph: MindSpore's own runner; lite: MindSpore Lite on Ascend (%(default)s)")
    _flag(where, "device_id", None, "N", "Ascend device; the CPU has only one (default: DEVICE_ID of a launcher, 0)", kind=int)
    _flag(where, "rank_id", None, "N", "which rank this process is (default: RANK_ID of a launcher, 0)", kind=int)
    _flag(where, "config_path", "", "INI", "lite.ini for MindSpore Lite, or full.ini,inc.ini")
    _flag(where, "group_info_file", "", "FILE", "communication groups for MindSpore Lite, of a pipeline-parallel export")
    _flag(where, "distributed", False, "BOOL", "one of several ranks: answers --predict_data, never asks (%(default)s)", kind=_truth)
    answer = parser.add_argument_group("answers")
    _flag(answer, "predict_data", "", "TEXT", r"prompt (\n is a new line); without one it is asked for")
    _flag(answer, "batch_size", 1, "N", "the prompt so many times in one batch (%(default)s)", kind=int)
    _flag(answer, "generated_time", 1, "N", "answer --predict_data so many times (%(default)s)", kind=int)
    _flag(answer, "stream", False, "BOOL", "show text while it is made (%(default)s)", kind=_truth)
    _flag(answer, "max_length", None, "N", f"longest prompt and answer together ({MAX_LENGTH}, or what the graphs hold)", kind=int)
    _flag(answer, "max_output_length", None, "N", f"longest answer ({MAX_OUTPUT_LENGTH} with --dynamic True, else no limit)", kind=int)
    _flag(answer, "do_sample", False, "BOOL", "draw tokens instead of taking the most likely (%(default)s)", kind=_truth)
    _flag(answer, "top_k", None, "K", "draw among the K most likely; with --do_sample True (1)", kind=int)
    _flag(answer, "top_p", None, "P", "draw among the fewest that reach probability P; with --do_sample True (1.0)", kind=float)
    _flag(answer, "temperature", None, "T", "above 1 flattens, below 1 sharpens; with --do_sample True (1.0)", kind=float)
    _flag(answer, "repetition_penalty", 1.0, "R", "above 1 makes seen tokens less likely (%(default)s)", kind=float)
    _flag(answer, "is_sample_acceleration", False, "BOOL", "tokens chosen inside the graph: not exported here, so False", kind=_truth)


def _flag(group: Any, name: str, default: Any, metavar: str, text: str, *, kind: Any = str) -> None:
    spellings = [f"--{name}", f"--{name.replace('_', '-')}"] if "_" in name else [f"--{name}"]
    group.add_argument(*spellings, dest=name, default=default, metavar=metavar, help=text, type=kind)


def _truth(text: str) -> bool:
    try:
        return str2bool(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(f"got {text!r}, must be True or False") from error


def run(arguments: argparse.Namespace) -> int:
    """Check the flags, open the graphs, answer; every rank shows its own answers."""
    from mindformers_codellama.mindir.manifest import read_export_manifest
    from mindformers_codellama.mindir.open import GRAPH, find_export

    rank = place_of("--rank_id", arguments.rank_id, "RANK_ID")
    device = place_of("--device_id", arguments.device_id, "DEVICE_ID")
    check_flags(arguments)
    folder = find_export(model_dir=arguments.model_dir, full=arguments.prefill_model_path, inc=arguments.increment_model_path, rank=rank)
    manifest = read_export_manifest(folder)
    check_against(arguments, folder, manifest)
    with ExitStack() as stack:
        if manifest.world_size > 1:
            enter_job(stack, arguments, folder, (rank, device), manifest.world_size)
        pipe = open_pipe(arguments, folder, manifest, rank=rank, device=device)
        if manifest.world_size > 1 and arguments.engine == GRAPH:
            agree(arguments, manifest.world_size)
        if arguments.predict_data:
            for _ in range(arguments.generated_time):
                answer(pipe, arguments, unescape(arguments.predict_data))
            return 0
        return converse(pipe, arguments)


def check_flags(arguments: argparse.Namespace) -> None:
    """What can be said before anything is read.

    Raises:
        ConfigError: a flag whose value cannot be served.
    """
    if arguments.is_sample_acceleration:
        fix = "give --is_sample_acceleration False."
        raise ConfigError("--is_sample_acceleration", "exported graphs give logits; tokens are chosen outside of them.", fix=fix)
    if arguments.model_name.lower() not in GENERAL:
        from mindformers_codellama.config.families import model_facts

        model_facts(arguments.model_name)  # says the nearest name
    for name in ("batch_size", "generated_time"):
        if getattr(arguments, name) < 1:
            raise ConfigError(f"--{name}", f"got {getattr(arguments, name)}, must be at least 1.")
    if arguments.prompt and "{}" not in arguments.prompt:
        raise ConfigError("--prompt", "has no {} where the user's text belongs.", fix='for example --prompt "Question: {} Answer:".')
    if arguments.stream and arguments.batch_size > 1:
        raise ConfigError("--stream", "shows one answer at a time.", fix="give --batch_size 1, or --stream False.")
    if arguments.distributed and not arguments.predict_data:
        raise ConfigError("--predict_data", "is empty, and ranks cannot ask for prompts.", fix='give --predict_data "TEXT".')
    if not arguments.predict_data and arguments.generated_time > 1:
        raise ConfigError("--generated_time", "repeats --predict_data, which is empty.", fix='give --predict_data "TEXT".')
    idle = [f"--{name}" for name in SAMPLING if getattr(arguments, name) is not None]
    if idle and not arguments.do_sample:
        logger.warning("%s has no effect without --do_sample True.", ", ".join(idle))


def check_against(arguments: argparse.Namespace, folder: Path, manifest: ExportManifest) -> None:
    """Flags against what was exported.

    Raises:
        ConfigError: several ranks without `--distributed True`, or the other way round; more rows than the graphs take.
        CheckpointError: another length.
    """
    from mindformers_codellama.mindir.protocol import FULL, INPUT_IDS
    from mindformers_codellama.pipelines.mindir_lm import require_length

    require_length(folder, manifest, arguments.seq_length)
    if manifest.world_size > 1 and not arguments.distributed:
        problem = f"is False, but the graphs are for {manifest.world_size} ranks that run together."
        raise ConfigError("--distributed", problem, fix="give --distributed True and start every rank: scripts/run_lite.sh does.")
    rows = manifest.graph(0, FULL).signature.input(INPUT_IDS).shape[0]
    if rows is not None and arguments.batch_size > rows:
        problem = f"got {arguments.batch_size}, but the graphs were exported for {rows}."
        raise ConfigError("--batch_size", problem, fix=f"give {rows} at most, or export with a larger --batch_size.")


def open_pipe(arguments: argparse.Namespace, folder: Path, manifest: ExportManifest, *, rank: int, device: int) -> TextGenerationPipeline:
    """The graphs of this rank behind the suite's own text generation."""
    from mindformers_codellama.mindir.lite_engine import import_lite
    from mindformers_codellama.mindir.open import LITE, Place

    if arguments.engine == LITE:
        import_lite()  # before MindSpore: libraries of both in one process come from it, as in MindFormers' script
    from tqdm import tqdm

    from mindformers_codellama.pipelines.mindir_lm import export_tokenizer, open_mindir
    from mindformers_codellama.pipelines.text_generation import TextGenerationPipeline

    name = "" if arguments.model_name.lower() in GENERAL else arguments.model_name
    tokenizer = export_tokenizer(manifest, arguments.tokenizer_path, name=name)
    place = Place(
        engine=arguments.engine,
        rank_id=rank,
        device_id=device,
        config_path=arguments.config_path,
        group_info_file=arguments.group_info_file,
        context=context_of(manifest, device),
        key_file=arguments.key_file,
    )
    total = sum(manifest.record(name).size for name in manifest.rank_files(rank))
    with tqdm(total=total, unit="B", unit_scale=True, desc="checking files", leave=False, disable=not sys.stderr.isatty()) as bar:
        model = open_mindir(folder, place, dynamic=arguments.dynamic, progress=bar.update)
    return TextGenerationPipeline(model, tokenizer, batch_size=arguments.batch_size)


def converse(pipe: TextGenerationPipeline, arguments: argparse.Namespace) -> int:
    """Answer what is typed. A prompt that cannot be answered is told and the next one asked for; the exit code is the last error's."""
    code = 0
    for text in typed():
        try:
            answer(pipe, arguments, text)
        except (GenerationError, TokenizerError) as error:
            if arguments.stream:
                print(flush=True)  # behind the prompt
            print(f"codellama: error: {error}", file=sys.stderr)
            code = error.exit_code
    return code


def typed() -> Iterator[str]:
    """What is typed until `exit` or the end of the input, line by line."""
    while True:
        print(ASK, flush=True)
        line = sys.stdin.readline()
        if not line or line.rstrip("\n") == EXIT:
            print(OVER)
            return
        if line.strip():
            yield unescape(line.rstrip("\n"))


def answer(pipe: TextGenerationPipeline, arguments: argparse.Namespace, text: str) -> None:
    """Show prompt and answer of every row."""
    from mindformers_codellama.generation.loop import Listeners

    prompt = unescape(arguments.prompt).replace("{}", text) if arguments.prompt else text
    rows = [pipe.tokenizer.encode(prompt, arguments.add_special_tokens)] * arguments.batch_size
    config = generation(arguments, pipe, len(rows[0]))
    if arguments.stream:
        sys.stdout.write(prompt)
        result = pipe.run(rows, config, listeners=Listeners(on_text=_write))
        print(flush=True)
    else:
        result = pipe.run(rows, config)
        assert result.texts is not None, "the pipeline has a tokenizer"
        for made in result.texts:
            sys.stdout.write(f"{prompt}{made}\n")
        sys.stdout.flush()
    print(f"{result.stats}", file=sys.stderr)


def generation(arguments: argparse.Namespace, pipe: TextGenerationPipeline, prompt_tokens: int) -> GenerationConfig:
    """The options of the flags, for a prompt of so many tokens."""
    given = {name: getattr(arguments, name) for name in SAMPLING}
    options: dict[str, Any] = {name: SAMPLING[name] if value is None else value for name, value in given.items()}
    options |= {"do_sample": arguments.do_sample, "repetition_penalty": arguments.repetition_penalty}
    options["max_length"] = min(MAX_LENGTH, pipe.model.config.seq_length) if arguments.max_length is None else arguments.max_length
    config = pipe.generation.updated(**options)
    longest = MAX_OUTPUT_LENGTH if arguments.max_output_length is None and arguments.dynamic else arguments.max_output_length
    room = config.max_length - prompt_tokens
    return config if longest is None or longest >= room else config.updated(max_new_tokens=longest)


def _write(_: int, piece: str) -> None:
    sys.stdout.write(piece)
    sys.stdout.flush()
