"""Texts of similar length into batches of bounded size: what every model that pads its batches wants."""

from __future__ import annotations

from collections.abc import Sequence


def pack(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Positions of ``lengths`` in groups of similar length whose padded size (longest times number) stays within
    ``batch_tokens``.

    A single item longer than that is a group of its own. Groups go from short to long.
    """
    groups: list[list[int]] = []
    for position in sorted(range(len(lengths)), key=lengths.__getitem__):
        if groups and lengths[position] * (len(groups[-1]) + 1) <= batch_tokens:
            groups[-1].append(position)
        else:
            groups.append([position])
    return groups
