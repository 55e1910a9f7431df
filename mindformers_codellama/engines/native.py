"""The native engine: this package's own training, evaluation and generation."""

from __future__ import annotations

from collections.abc import Sequence

from mindformers_codellama.config.sections import RunConfig
from mindformers_codellama.engines.protocol import Report


class NativeEngine:
    """`engine: native`. Imports MindSpore when it is used, and MindFormers never."""

    name = "native"

    def train(self, run: RunConfig) -> Report:
        """As `train.run.train`."""
        from mindformers_codellama.train.run import train

        result = train(run)
        lines = [f"{result.step} steps in {result.seconds:.0f} s", *(f"{name}: {path}" for name, path in result.files.items() if path)]
        return Report(engine=self.name, action=run.run_mode, lines=tuple(lines), numbers={"loss": result.loss})

    def evaluate(self, run: RunConfig) -> Report:
        """As `pipelines.evaluate_packed.evaluate_weights`."""
        from mindformers_codellama.pipelines.evaluate_packed import evaluate_weights

        result, _ = evaluate_weights(run)
        numbers = {"loss": result.loss, "perplexity": result.perplexity}
        line = f"loss {result.loss:.4f}, PPL {result.perplexity:.3f} over {result.tokens} tokens"
        return Report(engine=self.name, action=run.run_mode, lines=(line,), numbers=numbers)

    def predict(self, run: RunConfig, prompts: Sequence[str]) -> Report:
        """As `pipelines.text_generation`, prompts continued as they are."""
        from mindformers_codellama.pipelines.open_model import open_run
        from mindformers_codellama.pipelines.text_generation import TextGenerationPipeline

        opened = open_run(run)
        pipe = TextGenerationPipeline(opened.model, opened.tokenizer, batch_size=opened.batch_size)
        result = pipe.run([opened.tokenizer.encode(text) for text in prompts], opened.generation)
        texts = tuple(pipe.whole_text(result, row) for row in range(len(result.ids)))
        return Report(engine=self.name, action=run.run_mode, lines=texts, texts=texts)
