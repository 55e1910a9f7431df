"""Record what transformers' slow LlamaTokenizer does, for tests/unit/text/test_tokenizer_golden.py.

    python tests/golden/make_tokenizer_golden.py [--check] [LLAMA_TOKENIZER_MODEL]

Needs transformers 4.57.1 (the last slow LlamaTokenizer; 5.x has only the fast one) and sentencepiece; run outside the
project's environment. Writes tests/golden/tokenizer_golden.json (shipped tiny tokenizer) and, when the path of Llama 2's
tokenizer.model is given, tests/golden/tokenizer_golden_llama2.json. `--check` compares instead of writing.
"""

import argparse
import hashlib
import json
import random
import sys
from pathlib import Path

import sentencepiece
import transformers
from transformers.models.llama.tokenization_llama import LlamaTokenizer

HERE = Path(__file__).parent
TINY = HERE.parents[1] / "mindformers_codellama" / "text" / "assets" / "codellama_tiny" / "tokenizer.model"
TEXTS = [
    "",
    " ",
    "  ",
    "x",
    " x",
    "  x",
    "    return x\n",
    "\n",
    "\n\n  \n",
    "\t",
    "a\tb\r\nc\r",
    "def add(a, b):\n    return a + b\n",
    "Hello</s>a <unk><s>",
    "<s>",
    "<s><s>",
    "</s> x",
    "<s> x</s>",
    " <s>x",
    "  <s>  x",
    "x <s",
    "</s",
    "<unk>",
    "a<unk>b",
    "<0x0A>",
    "\u2581",
    "\u2581x",
    "x\u2581y",
    "\u2581<PRE>",
    "<PRE> a <SUF> b <MID>",
    "\u2581<EOT>",
    "<step>",
    "a <step> b<step>",
    "\u263a",
    "caf\u00e9 cafe\u0301",
    "\u6f22\u5b57\u304b\u306a",
    "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\u200b\u00a0\ufeffx",
    "12345 3.14 0x1F",
    "a" * 40,
    " " * 33 + "deep",
    "\u0000\u0001\u007f",
    "\ufffd",
    "mixed \u0645\u0631\u062d\u0628\u0627 text",
    "`~!@#$%^&*()",
]
CONFIGS = {
    "legacy": {"legacy": True, "pad_token": "<unk>"},
    "new": {"legacy": False, "pad_token": "<unk>"},
    "legacy_eos": {"legacy": True, "pad_token": "<unk>", "add_eos_token": True},
    "legacy_added": {"legacy": True, "pad_token": "<pad>", "additional_special_tokens": ["<step>"]},
    "new_added": {"legacy": False, "pad_token": "<pad>", "additional_special_tokens": ["<step>"], "add_bos_token": False},
}
CALLS = [
    {"padding": True},
    {"padding": "longest", "padding_side": "left"},
    {"padding": "max_length", "max_length": 12},
    {"padding": "max_length", "max_length": 12, "padding_side": "left", "truncation": True},
    {"padding": "max_length", "max_length": 5, "truncation": True},
    {"padding": True, "max_length": 3, "truncation": True},
    {"padding": False, "add_special_tokens": False},
]
BATCH = ["def f(x):", "", "a much longer line of text than the others", " x"]


def random_texts(generator: random.Random) -> list[str]:
    alphabet = [
        "<s>",
        "</s>",
        "<unk>",
        "<step>",
        "<",
        "/",
        "s",
        ">",
        " ",
        "  ",
        "\n",
        "\u2581",
        "a",
        "def ",
        "1",
        "\u00e9",
        "\U0001f600",
        "\u263a",
    ]
    return ["".join(generator.choices(alphabet, k=generator.randrange(1, 10))) for _ in range(80)]


def random_ids(generator: random.Random, size: int, extra: list[int]) -> list[list[int]]:
    def one() -> int:
        kind = generator.random()
        return generator.randrange(3, 259) if kind < 0.3 else generator.choice(extra) if kind < 0.5 else generator.randrange(size)

    return [[one() for _ in range(generator.randrange(9))] for _ in range(80)]


def record(model: Path) -> dict:
    texts = TEXTS + random_texts(random.Random(7))
    cases = {}
    for name, options in CONFIGS.items():
        tokenizer = LlamaTokenizer(str(model), **options)
        extra = sorted(
            {*tokenizer.all_special_ids, tokenizer.convert_tokens_to_ids("\u2581"), tokenizer.convert_tokens_to_ids("\u2581\u2581")}
        )
        rows = random_ids(random.Random(8), tokenizer.vocab_size, extra)
        encoded = [tokenizer.encode(text) for text in texts]
        calls = []
        for call in CALLS:
            tokenizer.padding_side = call.get("padding_side", "right")
            result = tokenizer(BATCH, **{key: value for key, value in call.items() if key != "padding_side"})
            calls.append({key: result[key] for key in ("input_ids", "attention_mask")})
        cases[name] = {
            "encode": encoded,
            "encode_bare": [tokenizer.encode(text, add_special_tokens=False) for text in texts],
            "decode": [tokenizer.decode(ids) for ids in encoded],
            "decode_skip": [tokenizer.decode(ids, skip_special_tokens=True) for ids in encoded],
            "ids": rows,
            "ids_decode": [tokenizer.decode(ids) for ids in rows],
            "ids_decode_skip": [tokenizer.decode(ids, skip_special_tokens=True) for ids in rows],
            "calls": calls,
            "length": len(tokenizer),
            "special_ids": dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True)),
        }
    return {
        "made_by": f"transformers {transformers.__version__} slow LlamaTokenizer, sentencepiece {sentencepiece.__version__}",
        "model_sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
        "texts": texts,
        "batch": BATCH,
        "call_options": CALLS,
        "configs": CONFIGS,
        "cases": cases,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("llama2", nargs="?", type=Path, help="Llama 2's tokenizer.model")
    parser.add_argument("--check", action="store_true", help="compare with the files instead of writing them")
    args = parser.parse_args()
    wanted = [(TINY, HERE / "tokenizer_golden.json")]
    if args.llama2 is not None:
        wanted.append((args.llama2, HERE / "tokenizer_golden_llama2.json"))
    for model, output in wanted:
        text = json.dumps(record(model), ensure_ascii=True, separators=(",", ":")) + "\n"
        if args.check:
            if output.read_text(encoding="ascii") != text:
                print(f"{output} differs")
                return 1
        else:
            output.write_text(text, encoding="ascii")
        print(output.name, "holds" if args.check else "written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
