"""Small instructions with their answers, made from a table: what the demo model is taught to answer.

    python scripts/examples/demo_instructions.py --output output/demo/instructions.json --count 3000
    python scripts/examples/demo_instructions.py --output output/demo/questions.json --count 60 --held-out

Every record is a function to write, its name and those of its arguments drawn from lists. A record belongs to one part by its
text alone: what `--held-out` writes, no training file holds. The operations are in both; what is new is how names meet them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
from pathlib import Path

HELD_OUT = 0.1
NAMES = (
    *("total", "result_of", "compute", "helper", "process", "combine", "check", "convert", "find", "get_value", "apply", "reduce_all"),
    *("make", "build", "update", "handle", "parse", "solve", "work", "measure", "prepare", "select", "collect", "step"),
)
NUMBERS = (("a", "b"), ("x", "y"), ("first", "second"), ("left", "right"), ("m", "n"), ("start", "stop"), ("width", "height"))
LISTS = ("items", "values", "numbers", "data", "lst", "rows", "elements", "scores")
TEXTS = ("text", "s", "word", "line", "name", "message", "string", "title")
ON_NUMBERS = (
    ("returns the sum of {a} and {b}", "return {a} + {b}"),
    ("returns the difference of {a} and {b}", "return {a} - {b}"),
    ("returns the product of {a} and {b}", "return {a} * {b}"),
    ("returns the quotient of {a} and {b}", "return {a} / {b}"),
    ("returns the remainder of {a} divided by {b}", "return {a} % {b}"),
    ("returns {a} to the power of {b}", "return {a} ** {b}"),
    ("returns the larger of {a} and {b}", "return max({a}, {b})"),
    ("returns the smaller of {a} and {b}", "return min({a}, {b})"),
    ("tells whether {a} is greater than {b}", "return {a} > {b}"),
    ("tells whether {a} and {b} are equal", "return {a} == {b}"),
    ("returns {a} and {b} as a tuple", "return {a}, {b}"),
    ("returns the average of {a} and {b}", "return ({a} + {b}) / 2"),
)
ON_LISTS = (
    ("returns the sum of {v}", "return sum({v})"),
    ("returns the largest of {v}", "return max({v})"),
    ("returns the smallest of {v}", "return min({v})"),
    ("returns the number of {v}", "return len({v})"),
    ("returns {v} sorted", "return sorted({v})"),
    ("returns {v} reversed", "return {v}[::-1]"),
    ("returns the first of {v}", "return {v}[0]"),
    ("returns the last of {v}", "return {v}[-1]"),
    ("returns {v} without duplicates", "return list(set({v}))"),
    ("returns the squares of {v}", "return [x * x for x in {v}]"),
    ("returns the even ones of {v}", "return [x for x in {v} if x % 2 == 0]"),
    ("prints each of {v}", "for x in {v}:\n        print(x)"),
    ("tells whether {v} is empty", "return not {v}"),
)
ON_TEXTS = (
    ("returns {v} in upper case", "return {v}.upper()"),
    ("returns {v} in lower case", "return {v}.lower()"),
    ("returns {v} without spaces at its ends", "return {v}.strip()"),
    ("returns the words of {v}", "return {v}.split()"),
    ("returns {v} reversed", "return {v}[::-1]"),
    ("returns the length of {v}", "return len({v})"),
    ("tells whether {v} is a palindrome", "return {v} == {v}[::-1]"),
    ("tells whether {v} is a number", "return {v}.isdigit()"),
    ("returns the number of vowels in {v}", 'return sum(c in "aeiou" for c in {v})'),
)


def records() -> list[dict[str, str]]:
    """Every record the table gives, in a fixed order."""
    found = []
    for name in NAMES:
        for a, b in NUMBERS:
            found += [_record(name, f"{a}, {b}", task.format(a=a, b=b), body.format(a=a, b=b)) for task, body in ON_NUMBERS]
        for arguments, table in ((LISTS, ON_LISTS), (TEXTS, ON_TEXTS)):
            found += [_record(name, v, task.format(v=v), body.format(v=v)) for v in arguments for task, body in table]
    return found


def is_held_out(record: dict[str, str]) -> bool:
    """By the instruction alone, so on every machine the same."""
    digest = hashlib.sha256(record["instruction"].encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48 < HELD_OUT


def _record(name: str, arguments: str, task: str, body: str) -> dict[str, str]:
    instruction = f"Write a function {name}({arguments}) that {task}."
    return {"instruction": instruction, "input": "", "output": f"def {name}({arguments}):\n    {body}"}


def main() -> None:
    """Draw and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="JSON list in Alpaca form")
    parser.add_argument("--count", type=int, default=3000, help="records, drawn without repetition (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--held-out", action="store_true", help="of the part no training file holds")
    arguments = parser.parse_args()
    part = [record for record in records() if is_held_out(record) == arguments.held_out]
    if not 0 < arguments.count <= len(part):
        parser.error(f"--count: got {arguments.count}, this part has {len(part)} records")
    drawn = random.Random(arguments.seed).sample(part, arguments.count)  # noqa: S311 - not for secrets
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(drawn, indent=1), encoding="utf-8")
    print(f"wrote {len(drawn)} of {len(part)} records to {arguments.output}")


if __name__ == "__main__":
    main()
