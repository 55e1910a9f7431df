"""`tokenizer_config.json`: what Hugging Face's tools write beside `tokenizer.model`, and what we take from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mindformers_codellama.errors import TokenizerError
from mindformers_codellama.text.special import AddedToken

CONFIG_FILE = "tokenizer_config.json"
ADDED_FILE = "added_tokens.json"
TOKEN_KEYS = ("unk_token", "bos_token", "eos_token", "pad_token")
OPTION_KEYS = ("add_bos_token", "add_eos_token", "legacy", "padding_side", "add_prefix_space")
KNOWN_CLASSES = ("LlamaTokenizer", "LlamaTokenizerFast", "CodeLlamaTokenizer", "CodeLlamaTokenizerFast", "TokenizersBackend")


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty when there is no file.

    Raises:
        TokenizerError: unreadable, not JSON, or not an object.
    """
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TokenizerError(path, f"cannot be read as JSON: {error}.", fix="repair the file or remove it.") from error
    if not isinstance(values, dict):
        raise TokenizerError(path, f"holds a {type(values).__name__}, not an object.", fix="repair the file or remove it.")
    return values


def token_text(value: Any, where: str) -> str | None:
    """The string of a token, given plain or as Hugging Face's AddedToken object."""
    if isinstance(value, dict):
        value = value.get("content")
    if value is None or isinstance(value, str):
        return value
    raise TokenizerError(where, f"must be a string, got {value!r}.")


def read_options(folder: Path) -> dict[str, Any]:
    """Keyword arguments of `LlamaTokenizer` stated in the directory; keys not stated keep their defaults.

    `pad_token: null`, as Llama's own config has it, keeps our `<unk>`, MindFormers' choice, so that batches can be padded.

    Raises:
        TokenizerError: a damaged file, another tokenizer class, or a setting that is not supported.
    """
    path = folder / CONFIG_FILE
    values = read_json_object(path)
    name = values.get("tokenizer_class")
    if name is not None and name not in KNOWN_CLASSES:
        raise TokenizerError(
            f"{path}: tokenizer_class", f"got {name!r}, allowed: {', '.join(KNOWN_CLASSES)}.", fix="give a Llama tokenizer."
        )
    options: dict[str, Any] = {}
    for key in TOKEN_KEYS:
        text = token_text(values.get(key), f"{path}: {key}")
        if text is not None:
            options[key] = text
    for key in OPTION_KEYS:
        value = values.get(key)
        if value is None:
            continue
        if key != "padding_side" and not isinstance(value, bool):
            raise TokenizerError(f"{path}: {key}", f"must be true or false, got {value!r}.")
        options[key] = value
    added = read_added_tokens(folder, values)
    if added:
        options["added_tokens"] = added
    return options


def read_added_tokens(folder: Path, values: dict[str, Any]) -> tuple[AddedToken, ...]:
    """Added tokens with ids, from `added_tokens_decoder`, the older `added_tokens.json` and `additional_special_tokens`."""
    where = folder / CONFIG_FILE
    tokens: dict[str, AddedToken] = {}
    decoder = values.get("added_tokens_decoder") or {}
    if not isinstance(decoder, dict):
        raise TokenizerError(f"{where}: added_tokens_decoder", f"must be an object, got {decoder!r}.")
    for key, value in decoder.items():
        place = f"{where}: added_tokens_decoder.{key}"
        content = token_text(value, place)
        if not key.isdecimal() or not isinstance(value, dict) or content is None:
            raise TokenizerError(place, f"must be an id with an object that has a content, got {key!r}: {value!r}.")
        if value.get("single_word"):
            raise TokenizerError(place, "single_word is not supported.", fix="set it to false.")
        tokens[content] = AddedToken(content, int(key), bool(value.get("special")), bool(value.get("lstrip")), bool(value.get("rstrip")))
    for content, index in read_json_object(folder / ADDED_FILE).items():
        if not isinstance(index, int):
            raise TokenizerError(f"{folder / ADDED_FILE}: {content}", f"must be an id, got {index!r}.")
        tokens.setdefault(content, AddedToken(content, index, special=False))
    for value in values.get("additional_special_tokens") or ():
        text = token_text(value, f"{where}: additional_special_tokens")
        if text:
            tokens[text] = tokens.get(text, AddedToken(text))._replace(special=True)
    return tuple(tokens.values())


def write_options(options: dict[str, Any], added: dict[str, AddedToken]) -> bytes:
    """The bytes of `tokenizer_config.json`, readable by transformers."""
    values = {"tokenizer_class": "LlamaTokenizer", "clean_up_tokenization_spaces": False, **options}
    values["added_tokens_decoder"] = {
        str(token.id): {
            "content": token.content,
            "lstrip": token.lstrip,
            "normalized": False,
            "rstrip": token.rstrip,
            "single_word": False,
            "special": token.special,
        }
        for token in sorted(added.values(), key=lambda token: token.id or 0)
    }
    own = {options[key] for key in TOKEN_KEYS}
    values["additional_special_tokens"] = [token.content for token in added.values() if token.special and token.content not in own]
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()
