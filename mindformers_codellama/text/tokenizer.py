"""`LlamaTokenizer`: SentencePiece as Meta's code and as Hugging Face's slow tokenizer use it.

Two ways to encode, on purpose:

- `encode`, `__call__`: Hugging Face (and MindFormers). Special tokens spelled in the text become their ids.
- `encode_pieces`, `encode_infilling`: Meta. Nothing in the text is ever a special token; safe for text of strangers.

Compared with transformers 4.57.1 (slow) in tests/unit/text; docs/tokenizer.md says where each rule matters.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from mindformers_codellama.errors import TokenizerError
from mindformers_codellama.text.config_file import CONFIG_FILE, OPTION_KEYS, TOKEN_KEYS, write_options
from mindformers_codellama.text.encode import EncodeRules, encode_plain, encode_text
from mindformers_codellama.text.join import SPACE_PIECE, JoinRules, join_tokens
from mindformers_codellama.text.model_file import MODEL_FILE, open_processor, read_model_file
from mindformers_codellama.text.padding import as_list, pad_rows, padded_length, require_side, to_tensor, truncate_rows
from mindformers_codellama.text.special import AddedToken, SpecialTokens, give_ids, require_texts
from mindformers_codellama.text.write import refuse_existing, write_bytes

INFILLING_MARK = "\u263a"
INFILLING_PIECES = tuple(SPACE_PIECE + name for name in ("<PRE>", "<SUF>", "<MID>", "<EOT>"))


class LlamaTokenizer:
    """Text to ids and back for Llama 2 and Code Llama.

    Args:
        vocab_file: `tokenizer.model`, or the directory that holds it.
        unk_token: the unknown token's string.
        bos_token: begin of sequence.
        eos_token: end of sequence.
        pad_token: padding; None when rows are never padded. A string that is no piece gets the next free id.
        add_bos_token: put `bos_token` before every text.
        add_eos_token: put `eos_token` behind every text.
        legacy: each part between special tokens starts with SentencePiece's implicit space; False: only the text's start.
        padding_side: "right" or "left".
        add_prefix_space: False leaves out the first space; only with `legacy=False`.
        added_tokens: further strings matched as a whole, such as `<step>` of Code Llama 70B Instruct.

    Attributes:
        vocab_size: pieces in the model file; `len()` counts tokens added behind them too.
        prefix_id, suffix_id, middle_id, eot_id: Code Llama's infilling pieces or added tokens, found by name; None when there are none.
        path, sha256: the model file and the hash of its bytes, the tokenizer's identity in manifests.

    Raises:
        TokenizerError: missing or damaged file, a token that is no string, another padding side.
    """

    def __init__(  # noqa: PLR0913 - the surface of transformers and MindFormers
        self,
        vocab_file: str | Path,
        *,
        unk_token: str = "<unk>",
        bos_token: str = "<s>",
        eos_token: str = "</s>",
        pad_token: str | None = "<unk>",
        add_bos_token: bool = True,
        add_eos_token: bool = False,
        legacy: bool = True,
        padding_side: str = "right",
        add_prefix_space: bool = True,
        added_tokens: Sequence[AddedToken] = (),
    ) -> None:
        require_texts(unk_token=unk_token, bos_token=bos_token, eos_token=eos_token, pad_token=pad_token or "")
        require_side(padding_side)
        model = read_model_file(vocab_file)
        self.path = model.path
        self.sha256 = model.sha256
        self.unk_token, self.bos_token, self.eos_token, self.pad_token = unk_token, bos_token, eos_token, pad_token
        self.add_bos_token, self.add_eos_token = add_bos_token, add_eos_token
        self.legacy, self.add_prefix_space, self.padding_side = legacy, add_prefix_space, padding_side
        self._meta = open_processor(model)
        self._processor = self._meta if legacy else open_processor(model, dummy_prefix=False)
        self.vocab_size = int(self._meta.get_piece_size())
        own = [AddedToken(content) for content in (bos_token, eos_token, unk_token, pad_token) if content is not None]
        self.added_tokens = SpecialTokens(give_ids(own, added_tokens, self._piece_id, self.vocab_size))
        named = {content: token.id for content, token in self.added_tokens.by_content.items()}
        self.prefix_id, self.suffix_id, self.middle_id, self.eot_id = (named.get(p, self._piece_id(p)) for p in INFILLING_PIECES)
        self._marks = {i for i in (self.prefix_id, self.suffix_id, self.middle_id, self.eot_id) if i is not None}

    # -- vocabulary ---------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self.vocab_size + len({i for i in self.added_tokens.by_id if i >= self.vocab_size})

    def __repr__(self) -> str:
        return f"LlamaTokenizer({str(self.path)!r}, vocab_size={self.vocab_size}, legacy={self.legacy})"

    def _piece_id(self, piece: str) -> int | None:
        found = int(self._meta.piece_to_id(piece))
        return found if self._meta.id_to_piece(found) == piece else None

    @property
    def bos_token_id(self) -> int:
        """Id of the begin of a sequence."""
        return int(self.convert_tokens_to_ids(self.bos_token))

    @property
    def eos_token_id(self) -> int:
        """Id of the end of a sequence."""
        return int(self.convert_tokens_to_ids(self.eos_token))

    @property
    def unk_token_id(self) -> int:
        """Id of the unknown token."""
        return int(self.convert_tokens_to_ids(self.unk_token))

    @property
    def pad_token_id(self) -> int | None:
        """Id of the padding, None without one."""
        return None if self.pad_token is None else int(self.convert_tokens_to_ids(self.pad_token))

    @property
    def all_special_tokens(self) -> list[str]:
        """Strings that `skip_special_tokens` leaves out."""
        return [content for content, token in self.added_tokens.by_content.items() if token.special]

    @property
    def all_special_ids(self) -> list[int]:
        """Ids that `skip_special_tokens` leaves out."""
        return [self.convert_tokens_to_ids(token) for token in self.all_special_tokens]

    def get_vocab(self) -> dict[str, int]:
        """Every piece and added token with its id."""
        vocabulary = {self._meta.id_to_piece(i): i for i in range(self.vocab_size)}
        return vocabulary | {content: token.id for content, token in self.added_tokens.by_content.items() if token.id is not None}

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        """The id of a token, or the ids of a list; a string that is no token gets `unk`'s id."""
        if not isinstance(tokens, str):
            return [self.convert_tokens_to_ids(token) for token in tokens]
        added = self.added_tokens.by_content.get(tokens)
        return int(self._meta.piece_to_id(tokens)) if added is None else added.id

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """The token of an id, or the tokens of a flat list.

        Raises:
            TokenizerError: an id outside the vocabulary.
        """
        ids = as_list(ids)
        if isinstance(ids, int):
            return self._token(ids)
        skipped = self.added_tokens.special_ids if skip_special_tokens else frozenset()
        return [self._token(i) for i in ids if i not in skipped]

    def _token(self, index: int) -> str:
        added = self.added_tokens.by_id.get(index)
        if added is not None:
            return added.content
        if not 0 <= index < self.vocab_size:
            raise TokenizerError(
                self.path,
                f"token id {index} is not one of its {self.vocab_size} pieces.",
                fix="use the tokenizer the model was trained with.",
            )
        return str(self._meta.id_to_piece(index))

    # -- text to ids --------------------------------------------------------------------------------------------------

    def encode_pieces(self, text: str, *, bos: bool, eos: bool) -> list[int]:
        """Meta's encoder: SentencePiece alone, bos and eos as asked; `</s>` in the text stays text.

        Source: codellama e81b597 llama/tokenizer.py `Tokenizer.encode`.
        """
        return [self.bos_token_id] * bos + encode_plain(self._meta, text, marks=self._marks) + [self.eos_token_id] * eos

    def encode_infilling(self, text: str) -> list[int]:
        """Encode without the implicit leading space, for the parts of an infilling prompt.

        Source: codellama llama/tokenizer.py: a mark is put before the text and cut off again.
        """
        return encode_plain(self._meta, text, head=INFILLING_MARK, marks=self._marks)[len(self._mark_ids) :]

    @cached_property
    def _mark_ids(self) -> list[int]:
        return list(self._meta.encode(INFILLING_MARK))

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Hugging Face's slow encoder: special tokens in the text become their ids; bos and eos as configured."""
        if not add_special_tokens:
            return self._encode_text(text)
        return [self.bos_token_id] * self.add_bos_token + self._encode_text(text) + [self.eos_token_id] * self.add_eos_token

    def tokenize(self, text: str) -> list[str]:
        """The tokens of `encode` without bos and eos."""
        return [self._token(i) for i in self._encode_text(text)]

    def _encode_text(self, text: str) -> list[int]:
        head_length = 0 if self.legacy else len(self._processor.encode(self.unk_token))
        rules = EncodeRules(self._processor, self.added_tokens, self.legacy, self.add_prefix_space, self.unk_token, head_length)
        return encode_text(text, rules)

    def __call__(  # noqa: PLR0913 - transformers' surface
        self,
        text: str | Sequence[str],
        padding: bool | str = False,
        *,
        max_length: int | None = None,
        truncation: bool = False,
        return_tensors: str | None = None,
        add_special_tokens: bool = True,
    ) -> dict[str, Any]:
        """Encode one text or many.

        Args:
            text: a string gives flat lists (a row of one with `return_tensors`), a list of strings gives a list per string.
            padding: False, True or "longest" row, "max_length".
            max_length: ids per row with `truncation` or padding="max_length", special tokens included.
            truncation: drop ids at the text's end beyond `max_length`; bos and eos stay.
            return_tensors: None for lists, "np" or "ms" for int32 `(B, T)`.
            add_special_tokens: bos and eos as configured.

        Returns:
            `input_ids` and `attention_mask` (1 text, 0 padding).

        Raises:
            TokenizerError: unequal rows asked for as an array, no padding token, unknown option.
        """
        one = isinstance(text, str)
        rows = [self.encode(t, add_special_tokens) for t in ([text] if isinstance(text, str) else text)]
        if truncation and max_length is not None:
            rows = truncate_rows(rows, max_length, keep_last=add_special_tokens and self.add_eos_token)
        length = padded_length(rows, padding, max_length)
        if length and self.pad_token_id is None:
            raise TokenizerError("padding", "this tokenizer has no padding token.", fix='write pad_token="<unk>".')
        ids, masks = pad_rows(rows, length, self.pad_token_id or 0, self.padding_side)
        if return_tensors is not None:
            return {"input_ids": to_tensor(ids, return_tensors), "attention_mask": to_tensor(masks, return_tensors)}
        return {"input_ids": ids[0], "attention_mask": masks[0]} if one else {"input_ids": ids, "attention_mask": masks}

    # -- ids to text --------------------------------------------------------------------------------------------------

    def join_rules(self) -> JoinRules:
        """What decoding depends on; `text.stream` shares it."""
        added = self.added_tokens
        own = {self.unk_token, self.bos_token, self.eos_token, self.pad_token}
        # transformers writes added tokens that are not special, or lie behind the vocabulary, as words of their own
        split_off = {
            c for c, token in added.by_content.items() if not token.special or (c not in own and (token.id or 0) >= self.vocab_size)
        }
        return JoinRules(self._processor, added.special_contents, split_off, self.legacy, self.add_prefix_space)

    def decode(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """The text of one row of ids; of nested rows (lists, arrays, tensors) a list of texts.

        Raises:
            TokenizerError: an id outside the vocabulary.
        """
        ids = as_list(ids)
        if isinstance(ids, int):
            ids = [ids]
        if ids and isinstance(ids[0], list):
            return [self.decode(row, skip_special_tokens) for row in ids]
        return join_tokens(self.convert_ids_to_tokens(ids, skip_special_tokens), self.join_rules())

    def batch_decode(self, rows: Any, skip_special_tokens: bool = False) -> list[str]:
        """The text of each row."""
        return [self.decode(row, skip_special_tokens) for row in as_list(rows)]

    def decode_pieces(self, ids: Any) -> str:
        """Meta's decoder: SentencePiece alone; gives back exactly the text of `encode_pieces`."""
        ids = as_list(ids)
        return str(self._meta.decode([self._meta.id_to_piece(i) if 0 <= i < self.vocab_size else self._token(i) for i in ids]))

    def decode_infilling(self, ids: Any) -> str:
        """Decode without losing a leading space; the counterpart of `encode_infilling`."""
        return self.decode_pieces([*self._mark_ids, *as_list(ids)])[len(INFILLING_MARK) :]

    # -- files --------------------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **options: Any) -> LlamaTokenizer:
        """As `AutoTokenizer.from_pretrained`."""
        from mindformers_codellama.text.auto import AutoTokenizer

        return AutoTokenizer.from_pretrained(name_or_path, **options)

    def save_pretrained(self, folder: str | Path, *, force: bool = False) -> tuple[Path, Path]:
        """Write `tokenizer.model` and `tokenizer_config.json`, readable by transformers too.

        Raises:
            TokenizerError: a file is there already and not `force`, or the folder cannot be written.
        """
        folder = Path(folder).expanduser()
        model, config = folder / MODEL_FILE, folder / CONFIG_FILE
        for path in (model, config):
            refuse_existing(path, force=force)
        content = read_model_file(self.path).content
        options = {key: getattr(self, key) for key in (*TOKEN_KEYS, *OPTION_KEYS)}
        write_bytes(model, content, force=force)
        write_bytes(config, write_options(options, self.added_tokens.by_content), force=force)
        return model, config
