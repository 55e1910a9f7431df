"""What a person may set: YAML sections, strict reading, overrides, checks. Imports no MindSpore."""
