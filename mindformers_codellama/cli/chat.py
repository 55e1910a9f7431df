"""`codellama chat`: a conversation in the terminal, answers as they come."""

from __future__ import annotations

import argparse
import io
import sys
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from mindformers_codellama.cli.generation_options import add_generation_arguments, add_model_arguments, generation_options, open_from
from mindformers_codellama.cli.interrupts import stopping_on_interrupt
from mindformers_codellama.errors import CodeLlamaError

if TYPE_CHECKING:
    from mindformers_codellama.pipelines.chat_session import ChatSession
    from mindformers_codellama.pipelines.generating import CausalLM

EXAMPLES = """examples:
  codellama chat CodeLlama-7b-Instruct-hf --system "Answer with code only." --do-sample --temperature 0.2
  codellama chat configs/codellama/predict_codellama_tiny.yaml --load-checkpoint CKPT --prompt-style alpaca
  codellama chat CodeLlama-7b-hf --adapter polite=output/polite/adapter --adapter output/terse/adapter
in the conversation:
  /reset forget all turns    /system TEXT change the system text    /help    /exit (or Ctrl-D)
  /adapter NAME use an adapter of --adapter from now on, /adapter base none of them
  Ctrl-C stops the answer, not the program; a line that ends with \\ goes on in the next one
"""

HELP = "/reset forgets all turns, /system TEXT sets the system text, /adapter NAME changes the adapter, /exit ends. Ctrl-C stops an answer."
ANSWER_LENGTH = 512


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Model and generation."""
    add_model_arguments(parser)
    add_generation_arguments(parser)
    parser.add_argument("--stats", action="store_true", help="show the speed of every answer on stderr")


def run(arguments: argparse.Namespace) -> int:
    """Open the model and talk until the input ends."""
    from mindformers_codellama.pipelines.chat_session import ChatSession

    opened = open_from(arguments, alone="chat")
    options = generation_options(arguments, sampling=opened.generation.do_sample)
    if not {"max_new_tokens", "max_length"} & set(options):
        options["max_new_tokens"] = min(ANSWER_LENGTH, max(1, opened.model.config.seq_length // 2))
    config = opened.generation.updated(**options)
    style = arguments.prompt_style or opened.prompt_style
    decoder = opened.model.decoder(use_past=config.use_past)
    session = ChatSession(decoder, opened.tokenizer, config, style=style, system=arguments.system)
    if style == "completion":
        print(
            "this model continues text: every line stands alone. See --prompt-style for models that were taught to answer.", file=sys.stderr
        )
    return Terminal(session, model=opened.model, show_stats=arguments.stats).talk()


@dataclass
class Terminal:
    """Reads lines, writes answers."""

    session: ChatSession
    model: CausalLM
    show_stats: bool = False
    answers: int = 0

    def talk(self) -> int:
        """Until /exit or the end of the input."""
        interactive = sys.stdin.isatty()
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(errors="surrogateescape")  # bytes that are no text are the tokenizer's to refuse, line by line
        if interactive:
            import_module("readline")  # line editing and history of input()
            print(HELP, file=sys.stderr)
        while True:
            try:
                line = read_turn("you> " if interactive else "")
            except EOFError:
                return 0
            except KeyboardInterrupt:
                if not interactive:
                    raise
                print("\n/exit or Ctrl-D ends the conversation.", file=sys.stderr)
                continue
            if line.startswith("/"):
                if not self.command(line):
                    return 0
            elif line.strip():
                self.answer(line)

    def command(self, line: str) -> bool:
        """Obey a command; False ends. An error is shown and changes nothing."""
        name, _, rest = line.partition(" ")
        if name in ("/exit", "/quit"):
            return False
        if name == "/reset":
            self.session.reset()
            print("forgotten.", file=sys.stderr)
        elif name == "/system":
            try:
                self.session.system = rest.strip()
            except CodeLlamaError as error:
                print(f"error: {error}", file=sys.stderr)
                return True
            print("system text set." if rest.strip() else "system text removed.", file=sys.stderr)
        elif name == "/adapter":
            self.change_adapter(rest.strip())
        else:
            print(HELP if name == "/help" else f"unknown command {name}. {HELP}", file=sys.stderr)
        return True

    def change_adapter(self, name: str) -> None:
        """Use another adapter, or say which there are."""
        try:
            if name:
                self.model.set_adapter(name)
            names = [f"*{one}" if one == (self.model.active_adapter or "base") else one for one in ("base", *self.model.adapters)]
            print(f"adapters: {', '.join(names)} (* is in use)", file=sys.stderr)
        except CodeLlamaError as error:
            print(f"error: {error}", file=sys.stderr)

    def answer(self, question: str) -> None:
        """Ask and stream; an error is shown and forgotten."""
        first = True

        def show(piece: str) -> None:
            nonlocal first
            sys.stdout.write(piece.lstrip(" ") if first else piece)
            sys.stdout.flush()
            first = first and not piece.strip(" ")

        try:
            with stopping_on_interrupt() as should_stop:
                result = self.session.ask(question, on_text=show, should_stop=should_stop, first_row=self.answers)
        except CodeLlamaError as error:
            print(f"error: {error}", file=sys.stderr)
            return
        self.answers += 1
        if first and result.texts is not None:
            sys.stdout.write(result.texts[0].lstrip(" "))
        sys.stdout.write("\n")
        sys.stdout.flush()
        if result.finish_reasons[0] == "cancelled":
            print("(stopped)", file=sys.stderr)
        elif result.finish_reasons[0] == "length":
            print("(cut at --max-new-tokens)", file=sys.stderr)
        if self.show_stats:
            print(f"({result.stats})", file=sys.stderr)


def read_turn(prompt: str) -> str:
    r"""One turn of the user; lines that end with `\` go on, as long as there are any.

    Raises:
        EOFError: the input has ended before the turn.
    """
    lines = [input(prompt)]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1][:-1]
        try:
            lines.append(input("...> " if prompt else ""))
        except EOFError:
            break
    return "\n".join(lines)
