"""How `codellama predict` shows answers: as they come, whole, or as JSON."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mindformers_codellama.generation.result import GenerationResult

TITLE_WIDTH = 100
"""Characters of a question shown above its answer."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to answer and how to show it."""

    prompts: list[str]
    style: str
    input_text: str = ""
    system: str = ""
    batch_size: int = 1
    stream: bool = True
    as_json: bool = False
    output: Path | None = None
    force: bool = False
    keep_older: bool = False
    """Move an older result file aside instead of refusing it."""


class Printer:
    """Shows answers: as they come, whole, or as JSON; each batch when it is done, so that nothing is lost when a later one fails."""

    def __init__(self, request: Request) -> None:
        self.request = request
        one_at_a_time = request.batch_size == 1 or len(request.prompts) == 1
        self.streams = request.stream and not request.as_json and one_at_a_time
        self.current = -1

    def generate(self, pipe: Any, prompts: Sequence[Sequence[int]], config: Any) -> GenerationResult:
        """Run the pipeline with a stream or with a bar."""
        from mindformers_codellama.generation.loop import Listeners

        if config.num_beams > 1:
            self.streams = False
        if self.streams:
            listeners = Listeners(on_text=self.on_text)
            result: GenerationResult = pipe.run(prompts, config, batch_size=1, listeners=listeners, after_batch=self.end_stream)
            return result
        from tqdm import tqdm

        with tqdm(total=len(prompts), unit="prompt", disable=len(prompts) == 1 or not sys.stderr.isatty()) as bar:

            def show(batch: GenerationResult, first: int) -> None:
                for row in range(len(batch.ids)):
                    tqdm.write(self.whole(pipe, batch, row, first + row))
                sys.stdout.flush()
                bar.update(len(batch.ids))

            result = pipe.run(prompts, config, after_batch=show)
        return result

    def head(self, row: int) -> str:
        """What stands before an answer: its number, and the prompt where the answer continues it."""
        count, prompt = len(self.request.prompts), self.request.prompts[row]
        number = f"== prompt {row + 1} of {count}" if count > 1 else ""
        if self.request.style == "completion":
            return (f"{number}\n" if number else "") + prompt
        first_line = textwrap.shorten(prompt, TITLE_WIDTH, placeholder=" ...")
        return f"{number}: {first_line}\n" if number else ""

    def on_text(self, row: int, piece: str) -> None:
        """Write a piece at once."""
        if row != self.current:
            self.current = row
            sys.stdout.write(self.head(row))
            if self.request.style != "completion":
                piece = piece.lstrip(" ")
        sys.stdout.write(piece)
        sys.stdout.flush()

    def end_stream(self, batch: GenerationResult, row: int) -> None:
        """End an answer; one that was empty still has its head."""
        if self.current != row:
            self.on_text(row, "")
        sys.stdout.write("\n")
        sys.stdout.flush()

    def whole(self, pipe: Any, batch: GenerationResult, row: int, number: int) -> str:
        """A complete answer: row `row` of its batch, prompt `number` of the request."""
        assert batch.texts is not None
        text = batch.texts[row]
        if not self.request.as_json:
            return self.head(number) + (text if self.request.style == "completion" else text.lstrip(" "))
        record = {
            "index": number,
            "prompt": self.request.prompts[number],
            "answer": text,
            "text_generation_text": [pipe.whole_text(batch, row)],
            "finish_reason": batch.finish_reasons[row],
            "prompt_tokens": batch.prompt_lengths[row],
            "new_tokens": len(batch.new_ids(row)),
        }
        return json.dumps(record, ensure_ascii=False)
