"""Golden rows of qa and wiki data: the contract's rules over the tokenizer of the real MindFormers.

Run in the environment of the [mindformers] extra (MindSpore 2.9.0, mindformers 1.9.0):

    python tests/golden/make_data_rows.py            writes data_rows.json
    python tests/golden/make_data_rows.py --check    fails when the file differs
"""

import hashlib
import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "unit" / "data"))

from oracle_rows import qa_row, wiki_rows  # noqa: E402

TOKENIZER = HERE.parent.parent / "mindformers_codellama" / "text" / "assets" / "codellama_tiny" / "tokenizer.model"
TARGET = HERE / "data_rows.json"
QA_ROW, WIKI_ROW = 161, 33
CONVERSATIONS = [
    [("human", "Create an array of length 5."), ("gpt", "arr = [2, 4, 6, 8, 10]")],
    [("human", "Say hi.\n"), ("gpt", "hi"), ("human", "Again, in German:"), ("gpt", " hallo\n")],
    [("human", "caf\u00e9 \u4f60\u597d"), ("gpt", "\tindented\n    code \U0001f600")],
    [("human", "one"), ("gpt", "def f(x):\n    return x\n" * 40)],
]
WIKI = (
    ' \n = Title = \n \n The " first " paragraph , with 3 @,@ 000 words ( in brackets ) and <unk> tokens . \n \n'
    " = = Part = = \n \n It ' s [ the second ] one ; really . It goes on : and on ! Does it ? Yes , at 20 \u00b0 C . \n \n Last one \n"
)


def tokenize_with_mindformers():
    from mindformers import LlamaTokenizer

    tokenizer = LlamaTokenizer(str(TOKENIZER), add_bos_token=True, add_eos_token=True)
    return lambda text: [int(i) for i in tokenizer(text)["input_ids"]]


def make(tokenize):
    conversations = [[{"from": role, "value": text} for role, text in turns] for turns in CONVERSATIONS]
    rows = [qa_row(turns, tokenize, QA_ROW) for turns in conversations]
    return {
        "generator": "tests/golden/make_data_rows.py, mindformers 1.9.0 LlamaTokenizer on text/assets/codellama_tiny, 2026-11-20",
        "tokenizer_sha256": hashlib.sha256(TOKENIZER.read_bytes()).hexdigest(),
        "qa": [
            {"conversations": turns, "input_ids": ids, "labels": labels} for turns, (ids, labels) in zip(conversations, rows, strict=True)
        ],
        "wiki": {"text": WIKI, "rows": wiki_rows(WIKI, tokenize, WIKI_ROW, repeat=2)},
    }


if __name__ == "__main__":
    made = json.dumps(make(tokenize_with_mindformers()), ensure_ascii=True) + "\n"
    if sys.argv[1:] == ["--check"]:
        sys.exit(0 if TARGET.read_text() == made else "data_rows.json differs from what the generator makes now")
    TARGET.write_text(made)
