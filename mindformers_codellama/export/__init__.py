"""Writing MindIR graphs of a model, and checking what was written against the model."""
