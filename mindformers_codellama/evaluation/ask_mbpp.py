"""MBPP's questions: three solved tasks and a fourth, or the task alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mindformers_codellama.evaluation.answer_code import PYTHON_TAGS, tagged_code
from mindformers_codellama.evaluation.generate_samples import Ask, Asked
from mindformers_codellama.evaluation.mbpp import MbppProblem
from mindformers_codellama.generation.stopping import AnswerRule, StopStrings
from mindformers_codellama.text.chat import Message, chat_ids
from mindformers_codellama.text.tokenizer import LlamaTokenizer

BEGIN, DONE = "[BEGIN]", "[DONE]"


def shots_prompt(problem: MbppProblem, solved: Sequence[MbppProblem]) -> str:
    """The prompt of the MBPP paper; examples are parted by an empty line.

    Source: Austin et al., arXiv 2108.07732, and README.md beside the data.
    """
    parts = [f"{_question(one)}{one.canonical_solution.rstrip()}\n{DONE}\n\n" for one in solved]
    return "".join(parts) + _question(problem)


def _question(problem: MbppProblem) -> str:
    head = f"You are an expert Python programmer, and here is your task: {problem.text} Your code should pass these tests:"
    return "\n".join([head, "", *problem.shown_tests, BEGIN, ""])


def zero_shot_prompt(problem: MbppProblem) -> str:
    """The zero-shot question of the Code Llama paper's appendix, without the marks of a chat."""
    tests = "\n".join(problem.shown_tests)
    opening, closing = PYTHON_TAGS
    return (
        f"You are an expert Python programmer, and here is your task: {problem.text}\nYour code should pass these tests:\n\n{tests}\n"
        f"Your code should start with a {opening} tag and end with a {closing} tag."
    )


def ask_with_examples(tokenizer: LlamaTokenizer, solved: Sequence[MbppProblem]) -> Ask:
    """The prompt of the MBPP paper to be continued up to `[DONE]`."""

    def ask(problem: MbppProblem) -> Asked:
        ids = tokenizer.encode(shots_prompt(problem, solved))
        return Asked(ids=ids, rule=AnswerRule(stop=StopStrings((DONE,))), record=lambda text, reason: {"completion": text})

    return ask


def ask_in_chat(tokenizer: LlamaTokenizer, style: str, question: Callable[[MbppProblem], str] = zero_shot_prompt) -> Ask:
    """A question to a chat model, or a text to be continued for the style `completion`; the code is taken out of the answer."""

    def ask(problem: MbppProblem) -> Asked:
        text = question(problem) + ("\n" if style == "completion" else "")
        rule = AnswerRule(stop=StopStrings((PYTHON_TAGS[1],)))
        ids = chat_ids(tokenizer, [Message("user", text)], style)
        return Asked(ids=ids, rule=rule, record=lambda answer, reason: {"completion": tagged_code(answer)})

    return ask
