"""What a run costs before it is started: memory per rank, bytes between ranks, idle time, and which layouts fit.

Pure arithmetic over the configuration and `layout.cuts`; no MindSpore. docs/scaling.md says what was measured.
"""
