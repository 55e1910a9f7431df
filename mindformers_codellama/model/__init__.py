"""The network, for one device; attribute names are the checkpoint contract."""
