"""Text to token ids and back, and prompt formats. Imports no MindSpore."""
