"""Where published checkpoints keep the experts of a layer, for every method of kt-kernel."""

from kt_moe.checkpoints.layers import METHODS, open_layer
from kt_moe.checkpoints.source import LayerSource, Wanted

__all__ = ["METHODS", "LayerSource", "Wanted", "open_layer"]
