"""The codellama command; the only layer that prints."""
