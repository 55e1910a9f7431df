"""Decoders: the network behind the interface that generate asks for."""
