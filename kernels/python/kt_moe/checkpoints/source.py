"""The experts that a checkpoint stores for a layer, and what is expected of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from kt_moe.files import FileError
from kt_moe.formats.load import Triple


@dataclass(frozen=True, slots=True)
class Wanted:
    """Layer, number of experts, and their sizes."""

    layer: int
    experts: int
    hidden: int
    intermediate: int


@dataclass(frozen=True, slots=True)
class LayerSource:
    """`triple(e)` gives gate, up and down of expert `e` as they stand in the file."""

    count: int
    triple: Callable[[int], Triple]

    def triples(self, order: Sequence[int]) -> Iterator[Triple]:
        """The experts in this order."""
        return (self.triple(e) for e in order)


def enough(source: LayerSource, wanted: Wanted, where: object) -> LayerSource:
    """The source, when it holds the experts that are wanted; raises FileError otherwise."""
    if source.count < wanted.experts:
        raise FileError(
            f"{where} has {source.count} experts in layer {wanted.layer}",
            f"{wanted.experts} were expected",
        )
    return source
