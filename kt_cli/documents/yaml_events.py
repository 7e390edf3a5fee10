"""What PyYAML's safe loader lets pass: keys that stand twice, depth, and aliases of aliases."""

from __future__ import annotations

from functools import cache
from typing import Any

import yaml

MAX_NODES = 1_000_000


@cache
def loader() -> Any:
    """libyaml's where PyYAML was built with it, which is some ten times faster."""
    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class Loader(base):  # type: ignore[misc]
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen: set[tuple[str, str]] = set()
            for key, _ in node.value:
                name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else None
                if name in seen:
                    why = f"the key {key.value!r} stands there twice"
                    raise yaml.constructor.ConstructorError(None, None, why, key.start_mark)
                if name:
                    seen.add(name)
            return super().construct_mapping(node, deep)

    return Loader


def require_small(text: str, depth: int) -> None:
    """Raises ValueError for tags, for depth, and for too many values once aliases are unfolded."""
    sizes: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = [(None, 0)]
    for event in yaml.parse(text, Loader=loader()):
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise ValueError(f"it has the tag {tag}, and tags are not read")
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, 1))
        elif isinstance(event, (yaml.NodeEvent, yaml.CollectionEndEvent)):
            _close(event, open_nodes, sizes)
        if len(open_nodes) > depth + 1:
            raise ValueError(f"it is nested more than {depth} levels deep")
        if open_nodes[-1][1] > MAX_NODES:
            raise ValueError(f"it stands for more than {MAX_NODES} values")


def _close(event: Any, open_nodes: list[tuple[str | None, int]], sizes: dict[str, int]) -> None:
    """Adds a finished node to the one that holds it."""
    anchor, size = (getattr(event, "anchor", None), 1)
    if isinstance(event, yaml.AliasEvent):
        if anchor not in sizes:
            raise ValueError(f"the alias *{anchor} stands for nothing, or for itself")
        size = sizes[anchor]
    elif isinstance(event, yaml.CollectionEndEvent):
        anchor, size = open_nodes.pop()
    if anchor is not None:
        sizes[anchor] = size
    outer, held = open_nodes[-1]
    open_nodes[-1] = (outer, held + size)
