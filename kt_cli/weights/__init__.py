"""Streams checkpoints: reads tensors and experts by name, writes shards.

Imports numpy, not torch; `Checkpoint.get` needs torch when it is called.
"""
