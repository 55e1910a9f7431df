"""Multiple-choice suites, MMLU and C-Eval: questions in, letters by logit or by generation, averages."""
