"""Which rank holds which part of a model: pure arithmetic that training, checkpoints, strategy files and the planner share."""
