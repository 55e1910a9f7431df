"""Running exported MindIR graphs: what an export directory holds, and the engines that run it."""
