"""Text in, text out: the model people hold in their hands."""

from mindformers_codellama.callable_package import make_callable

FUNCTION = "factory:pipeline"
"""What `pipeline(...)` calls."""

make_callable(__name__)
