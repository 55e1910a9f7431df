"""Optimizer, schedule, step, loop, monitors, resume."""
