"""Memory, traffic and waiting of a layout, computed without MindSpore."""
