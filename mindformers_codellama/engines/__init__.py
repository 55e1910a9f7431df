"""Who computes a run: this package (`native`), or an installed MindFormers (`mindformers`)."""
