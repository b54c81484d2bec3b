"""Measurements that anyone can repeat: ours beside its peers, in one run, on loopback only."""
