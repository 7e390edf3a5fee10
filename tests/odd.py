"""Random damage: to plain data, where it keeps its form, and to bytes, where it need not."""

import copy
import json
import math

ODD = (
    None, True, False, 0, 1, -1, 2, 3, 7, 255, 10**9, 2**31, 2**63, 2**64, 10**30, 10**400,
    -(10**9), 0.0, 0.5, -0.0, 1e-310, 1e308, math.inf, -math.inf, math.nan, "", "x", "4",
    "full_attention", "re:(", "*", "\0", "\x1b]52;c;\x07", "\u202e", "é" * 300, "../x", "/", [],
    [0], [1, 2], [None], [[]], [[[[[[1]]]]]], ["a"], [1] * 1000, {}, {"a": 1}, {"": None},
    {"bits": 3}, [{}], [True],
)  # fmt: skip


def odd(rng):
    return copy.deepcopy(rng.choice(ODD))


def places(tree):
    """Every container below with each of its keys."""
    pending = [tree]
    while pending:
        node = pending.pop()
        for key in node if isinstance(node, dict) else range(len(node)):
            yield node, key
            if isinstance(node[key], (dict, list)):
                pending.append(node[key])


def mutated(rng, tree):
    """A copy in which one to three values are odd, gone, repeated or moved."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 2, 3))):
        found = list(places(tree))
        if not found:
            return tree
        node, key = rng.choice(found)
        how = rng.randrange(8)
        if how == 0:
            del node[key]
        elif how == 1:
            node[key] = [node[key]]
        elif how == 2:
            node[key] = {"a": node[key]}
        elif how == 3 and type(node[key]) is int:
            node[key] += rng.choice((-1, 1, 2**20, -node[key]))
        elif how == 4:
            node[key] = str(node[key])
        elif how == 5:
            other, place = rng.choice(found)
            node[key] = copy.deepcopy(other.get(place) if isinstance(other, dict) else None)
        else:
            node[key] = odd(rng)
    return tree


def damaged(rng, content):
    """Bytes that are cut, flipped, repeated, replaced or put in."""
    content = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(content) + 1)
        how = rng.randrange(7)
        if how == 0:
            del content[at:]
        elif how == 1 and at < len(content):
            content[at] ^= 1 << rng.randrange(8)
        elif how == 2 and at < len(content):
            content[at] = rng.randrange(256)
        elif how == 3:
            content[at : at + 8] = rng.choice(
                (b"\xff" * 8, bytes(8), (1 << 40).to_bytes(8, "little"))
            )
        elif how == 4:
            content[at:at] = rng.choice(
                (b"[" * 300, b'"', b"}", b"9" * 400, b"\xff\xfe", b"\\ud800")
            )
        elif how == 5:
            content[at:at] = content[max(0, at - rng.randrange(64)) : at]
        else:
            del content[at : at + rng.randrange(16)]
    return bytes(content)


def written(tree):
    """As a writer of no principles would: NaN and infinities too."""
    return json.dumps(tree, ensure_ascii=False).encode("utf-8", errors="surrogatepass")
