"""HumanEval's questions: the problem's own prompt to be continued, or a chat that is asked for the function."""

from __future__ import annotations

from mindformers_codellama.evaluation.generate_samples import Ask, Asked
from mindformers_codellama.evaluation.problems import Problem
from mindformers_codellama.evaluation.truncation import FunctionEnd, truncated
from mindformers_codellama.generation.stopping import AnswerRule
from mindformers_codellama.text.tokenizer import LlamaTokenizer

PROMPT = "the problem's prompt as it is, behind the begin token"
STOP_RULE = "the first line at the margin behind the function's body"


def ask_to_continue(tokenizer: LlamaTokenizer) -> Ask:
    """The prompt as it is; the answer ends behind the function."""

    def ask(problem: Problem) -> Asked:
        return Asked(
            ids=tokenizer.encode(problem.prompt),
            rule=AnswerRule(stop=FunctionEnd(problem.prompt, problem.entry_point)),
            record=lambda text, reason: {"completion": truncated(problem.prompt, text, problem.entry_point)},
        )

    return ask
