"""`AutoTokenizer`: a tokenizer from a registry name, a directory, or a `tokenizer.model` file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mindformers_codellama.config.families import FAMILIES
from mindformers_codellama.demo import shipped_model
from mindformers_codellama.errors import TokenizerError
from mindformers_codellama.text.config_file import read_options
from mindformers_codellama.text.model_file import MODEL_FILE
from mindformers_codellama.text.tokenizer import LlamaTokenizer

TINY = "codellama_tiny"


def shipped_tokenizer() -> Path:
    """The directory of the project's own tokenizer."""
    return Path(__file__).parent / "assets" / TINY


def tokenizer_folder(name_or_path: str | Path) -> Path:
    """The file or directory meant by a name or path.

    A path that exists wins over a name, as in transformers; MindFormers' place for downloads,
    `checkpoint_download/<family>/tokenizer.model` under the working directory, is looked at for registry names.

    Raises:
        TokenizerError: neither exists; says where to put `tokenizer.model`.
    """
    if not isinstance(name_or_path, (str, Path)) or not str(name_or_path):
        fix = f"give a directory, a tokenizer.model file, or {TINY}."
        raise TokenizerError("AutoTokenizer.from_pretrained", f"must be a name or a path, got {name_or_path!r}.", fix=fix)
    path = Path(name_or_path).expanduser()
    if path.is_dir() or path.is_file():
        return path
    name = str(name_or_path)
    if name == TINY:
        return shipped_tokenizer()
    if shipped := shipped_model(name):
        return shipped[0]
    if name in FAMILIES:
        downloaded = Path("checkpoint_download") / name.split("_")[0]
        if (downloaded / MODEL_FILE).is_file():
            return downloaded
        if FAMILIES[name].source.startswith("this project"):
            fix = "bash scripts/train_demo.sh makes it; give the path of its directory."
            raise TokenizerError(name, "its tokenizer is not in this package.", fix=fix)
        raise TokenizerError(
            name,
            "its tokenizer is not shipped: Meta's licence asks you to fetch it yourself.",
            fix=f"download tokenizer.model of {name} and put it at {downloaded / MODEL_FILE}, or give the path of its directory.",
        )
    raise TokenizerError(
        name, "is neither a directory, nor a tokenizer.model file, nor a model name.", fix=f"names: {', '.join(sorted(FAMILIES))}."
    )


class AutoTokenizer:
    """MindFormers' and transformers' way to get a tokenizer."""

    @staticmethod
    def from_pretrained(name_or_path: str | Path, **options: Any) -> LlamaTokenizer:
        """Load a tokenizer.

        Args:
            name_or_path: "codellama_tiny" (shipped), another registry name, a directory with `tokenizer.model` (its
                `tokenizer_config.json` and `added_tokens.json` are honoured, YAML files beside them ignored), or the file.
            options: keyword arguments of `LlamaTokenizer`; they win over the directory's files.

        Raises:
            TokenizerError: nothing there, damaged files, unknown options.
        """
        place = tokenizer_folder(name_or_path)
        stated = read_options(place if place.is_dir() else place.parent)
        allowed = LlamaTokenizer.__init__.__kwdefaults__ or {}
        unknown = sorted(set(options) - set(allowed))
        if unknown:
            raise TokenizerError(
                "AutoTokenizer.from_pretrained", f"unknown option {', '.join(unknown)}.", fix=f"known: {', '.join(allowed)}."
            )
        return LlamaTokenizer(place / MODEL_FILE if place.is_dir() else place, **{**stated, **options})
