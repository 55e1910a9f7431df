"""Evaluation suites: problems in, samples, verdicts of programs run apart, and reports."""
