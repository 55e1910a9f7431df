"""HumanEval's questions: the problem's own prompt to be continued, or a chat that is asked for the function."""

from __future__ import annotations

from mindformers_codellama.evaluation.answer_code import fenced_code
from mindformers_codellama.evaluation.generate_samples import Ask, Asked
from mindformers_codellama.evaluation.problems import Problem
from mindformers_codellama.evaluation.truncation import FunctionEnd, truncated
from mindformers_codellama.generation.stopping import AnswerRule
from mindformers_codellama.text.chat import Message, chat_ids
from mindformers_codellama.text.tokenizer import LlamaTokenizer

PROMPT = "the problem's prompt as it is, behind the begin token"
STOP_RULE = "the first line at the margin behind the function's body"
CHAT_STOP_RULE = "the end of the answer; its first fenced block that defines the function"
REQUEST = "Complete this Python function. Answer with the whole function in one ```python block."


def ask_to_continue(tokenizer: LlamaTokenizer) -> Ask:
    """The prompt as it is; the answer ends behind the function."""

    def ask(problem: Problem) -> Asked:
        return Asked(
            ids=tokenizer.encode(problem.prompt),
            rule=AnswerRule(stop=FunctionEnd(problem.prompt, problem.entry_point)),
            record=lambda text, reason: {"completion": truncated(problem.prompt, text, problem.entry_point)},
        )

    return ask


def ask_in_chat(tokenizer: LlamaTokenizer, style: str) -> Ask:
    """`REQUEST` and the prompt as a question of a chat; the function is taken out of the answer.

    Args:
        tokenizer: of the model.
        style: of `text.chat.CHAT_STYLES`, not `completion`.
    """

    def ask(problem: Problem) -> Asked:
        question = f"{REQUEST}\n\n```python\n{problem.prompt.rstrip()}\n```"
        return Asked(
            ids=chat_ids(tokenizer, [Message("user", question)], style),
            rule=AnswerRule(),
            record=lambda text, reason: {"completion": chat_completion(problem, text)},
        )

    return ask


def chat_completion(problem: Problem, answer: str) -> str:
    """What follows the problem's prompt: the function once more, whole. The prompt's own head with its docstring is a function, too.

    Args:
        problem: its prompt and the name of its function.
        answer: of the model.
    """
    code = fenced_code(answer, problem.entry_point)
    return ("" if problem.prompt.endswith("\n") else "\n") + code.rstrip() + "\n"
