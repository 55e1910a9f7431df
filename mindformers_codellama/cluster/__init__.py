"""Servers, rank tables and the processes of a job; no MindSpore."""
