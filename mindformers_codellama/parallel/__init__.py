"""Ranks that work together: groups, collectives, and the Cells that cut a layer."""
