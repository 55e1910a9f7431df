"""Text in, text out: the model people hold in their hands."""
