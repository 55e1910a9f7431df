"""Prompts of the generation journeys, and what transformers answers."""

PROMPTS = ["def add(a, b):\n", "x = [1, 2", "import os", "class Tree:"]
NEW = 14
"""New tokens of every answer."""


def answers(theirs, ids: list[int], new: int = NEW, **options) -> list[int]:
    """Prompt and greedy answer by the model `theirs` of transformers."""
    import torch

    out = theirs.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), max_new_tokens=new, do_sample=False, **options)
    return out[0].tolist()
