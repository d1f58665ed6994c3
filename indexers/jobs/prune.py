"""Documents of an index that are no longer in their source: counted by every job, deleted where that is asked for
(``prune``)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from ...rag.errors import ConfigError, DeletionRefused
from ..stores.protocols import Writer
from .seen import SeenDocuments
from .sources import LeftOut, Origin, Sources

Doomed = dict[str, list[str]]
"""Ids of the documents that are to be deleted, by the name of their source."""


def expect_share(limit: float) -> None:
    """Raise ``ConfigError`` unless ``limit`` is a share."""
    if not 0 <= limit <= 1:
        raise ConfigError(f"a prune limit of {limit} is no share", where="prune_limit",
                          hint="give a number from 0 to 1, for example 0.5")


def vanished(
    writer: Writer, origins: Sequence[Origin], seen: SeenDocuments, places: Sources, left_out: LeftOut,
) -> Iterator[tuple[str, Origin]]:
    """The stored documents that were last read from one of ``origins``, and this time were not ``seen`` there; each
    once."""
    by_name = {origin.source: origin for origin in origins}
    given = SeenDocuments()
    for document_id, _ in writer.document_hashes() if origins else ():
        if seen.get(document_id) is not None or given.get(document_id) is not None:
            continue
        origin = by_name.get(places.source_of(document_id) or "")
        if origin is not None and not left_out.holds(places.path_of(document_id)):
            yield document_id, origin
            given.add([(document_id, b"")])  # its passages may lie in several batches


def prune(writer: Writer, places: Sources, doomed: Doomed, limit: float) -> DeletionRefused | None:
    """Delete the ``doomed`` documents in one commit, or none: says why when more than the share ``limit`` of a source's
    would go."""
    held = _held(writer, places) if any(doomed.values()) else {}
    crowds = [f"{len(ids):,} of {held[source]:,} documents of {source}"
              for source, ids in doomed.items() if len(ids) > limit * held[source]]
    if crowds:
        return DeletionRefused(
            f"{'; '.join(crowds)} have vanished, too many to believe: nothing was pruned (all else is done)",
            where=str(writer.path), hint="check that the source is there whole (is its disk mounted?); if they are to "
                                         "go, run it again with --prune-limit 1")
    ids = [document_id for some in doomed.values() for document_id in some]
    if ids:
        writer.delete(ids)
    return None


def _held(writer: Writer, places: Sources) -> Mapping[str, int]:
    """How many stored documents were last read from each source."""
    counted, held = SeenDocuments(), Counter[str]()
    for document_id, _ in writer.document_hashes():
        if counted.get(document_id) is None:
            counted.add([(document_id, b"")])
            held[places.source_of(document_id) or ""] += 1
    return held
