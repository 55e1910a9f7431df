"""Sampling, stopping and the token loop; numpy only, works with any decoder."""

from mindformers_codellama.callable_package import make_callable

FUNCTION = "loop:generate"
"""What `generate(...)` calls."""

make_callable(__name__)
