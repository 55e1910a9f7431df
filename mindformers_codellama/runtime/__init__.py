"""The only place that sets MindSpore's context, and the table of its dtypes."""
