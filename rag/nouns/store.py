"""Where a ranking's rows get their text: a store on disk, passages in memory, or several of these as one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, FingerprintMismatch, StageError
from .text import Passage

Rows = NDArray[np.int64]


@runtime_checkable
class PassageStore(Protocol):
    """Where a ranking's rows get their text. A row is an int64 that names one passage of one store for ever."""

    @property
    def uri(self) -> str:
        """Where ``regard.rag.dag.stores.open_store`` finds this store again; empty for a store in memory, and for a
        federation."""

    @property
    def fingerprint(self) -> str:
        """Changes whenever the content does."""

    @property
    def has_text(self) -> bool: ...

    def passages(self, rows: Sequence[int] | Rows) -> list[Passage]:
        """The passages of ``rows``, in that order."""

    def document_ids(self, rows: Sequence[int] | Rows) -> list[str]:
        """The document of each of ``rows``, without fetching text."""


class FilteredStore(PassageStore, Protocol):
    """A passage store that knows which of its passages meet a query's filters."""

    def select(self, filters: Mapping[str, Any]) -> Rows:
        """The rows whose passage meets ``filters``, int64 in the store's order: on its metadata, ``id``,
        ``document_id`` and ``title`` (``indexers.stores.filters``).

        Raises ``QueryError`` for a field that no passage has, and for an operator that there is not.
        """


Opener = Callable[[str], PassageStore]
"""Opens a store by its URI, such as ``regard.rag.dag.stores.open_store``."""


class PassageList:
    """A passage store in memory; row ``i`` is the ``i``-th passage. Lists of the same content are one store."""

    __slots__ = ("_fingerprint", "_passages")
    uri = ""
    has_text = True

    def __init__(self, passages: Sequence[Passage]) -> None:
        self._passages = dict(enumerate(passages))
        self._fingerprint = ""

    @classmethod
    def excerpt(cls, passages: Mapping[int, Passage], fingerprint: str) -> PassageList:
        """Some rows of a list that is not here, known by its fingerprint: what a ranking's JSON carries of it."""
        store = cls(())
        store._passages = dict(passages)
        store._fingerprint = fingerprint
        return store

    def joined(self, other: PassageList) -> PassageList:
        """This store with the rows that another excerpt of the same list has."""
        if self._passages.keys() >= other._passages.keys():
            return self
        return self.excerpt({**self._passages, **other._passages}, self.fingerprint)

    @property
    def fingerprint(self) -> str:
        """A hash of the passages. Raises ``ConfigError`` for metadata that is no JSON."""
        if not self._fingerprint:
            digest = hashlib.blake2b(digest_size=16)
            for passage in self._passages.values():
                try:
                    digest.update(json.dumps(passage.to_dict()).encode() + b"\n")
                except (TypeError, ValueError) as error:
                    raise ConfigError(f"a passage's metadata is no JSON: {error}", where=f"passage {passage.id!r:.80}",
                                      hint="use text, numbers, lists and mappings") from None
            self._fingerprint = f"memory:{digest.hexdigest()}"
        return self._fingerprint

    def __len__(self) -> int:
        return len(self._passages)

    def passages(self, rows: Sequence[int] | Rows) -> list[Passage]:
        try:
            return [self._passages[int(row)] for row in rows]
        except KeyError:
            raise StageError(f"a ranking names rows outside the {len(self)} passages of its store",
                             where="PassageList") from None

    def document_ids(self, rows: Sequence[int] | Rows) -> list[str]:
        return [passage.document_id for passage in self.passages(rows)]


_BITS = 48
"""Of a federated row: a member's own row; the bits above are the member's number."""


class Federation:
    """Several stores as one, so that rankings of two indexes, or of an index and passages in memory, can be merged.

    Row ``r`` of member ``m`` is row ``m * 2**48 + r``. Passages are the same only where store and row are: two members
    may hold one text.
    """

    __slots__ = ("members",)
    uri = ""

    def __init__(self, members: Sequence[PassageStore]) -> None:
        self.members = tuple(members)

    @property
    def fingerprint(self) -> str:
        named = "\n".join(member.fingerprint for member in self.members)
        return f"federation:{hashlib.blake2b(named.encode(), digest_size=16).hexdigest()}"

    @property
    def has_text(self) -> bool:
        return all(member.has_text for member in self.members)

    def passages(self, rows: Sequence[int] | Rows) -> list[Passage]:
        return self._gathered(rows, lambda member, own: member.passages(own))

    def document_ids(self, rows: Sequence[int] | Rows) -> list[str]:
        return self._gathered(rows, lambda member, own: member.document_ids(own))

    def split(self, rows: Sequence[int] | Rows) -> Iterator[tuple[PassageStore, Rows, NDArray[np.int64]]]:
        """Each member with those of ``rows`` that are its own, in its own numbers, and their positions in ``rows``.

        Raises ``StageError`` for a row of no member.
        """
        wanted = np.asarray(rows, dtype=np.int64)
        numbers = wanted >> _BITS
        if len(wanted) and not 0 <= numbers.min() <= numbers.max() < len(self.members):
            raise StageError(f"a ranking names rows outside the {len(self.members)} stores of its federation",
                             where="Federation")
        for number, member in enumerate(self.members):
            places = np.flatnonzero(numbers == number)
            yield member, wanted[places] - (number << _BITS), places

    def _gathered(self, rows: Sequence[int] | Rows, get: Callable[[PassageStore, Rows], list[Any]]) -> list[Any]:
        found: list[Any] = [None] * len(rows)
        for member, own, places in self.split(rows):
            for place, item in zip(places, get(member, own) if len(own) else (), strict=True):
                found[place] = item
        return found


def united(stores: Sequence[PassageStore], rows: Sequence[Rows]) -> tuple[PassageStore, list[Rows]]:
    """One store for the rows of several, and those rows in it: the store itself where all are of one, else a
    federation.

    ``rows[i]`` are of ``stores[i]``. The federation does not depend on the order of ``stores``. Raises ``StageError``
    for two versions of one stored index, and for a row that does not fit (2**48 and more, or below 0).
    """
    members = _members(stores)
    if len(members) == 1:
        return next(iter(members.values())), list(rows)
    numbers = {fingerprint: number for number, fingerprint in enumerate(members)}
    return Federation(list(members.values())), [_numbered(s, r, numbers) for s, r in zip(stores, rows, strict=True)]


def _members(stores: Sequence[PassageStore]) -> dict[str, PassageStore]:
    """The stores that are no federations, each once, in an order of their own."""
    found: dict[str, PassageStore] = {}
    for store in (part for whole in stores for part in _parts(whole)):
        held = found.setdefault(store.fingerprint, store)
        if isinstance(held, PassageList) and isinstance(store, PassageList):
            found[store.fingerprint] = held.joined(store)
    places = [store.uri for store in found.values() if store.uri]
    if len(set(places)) < len(places):
        raise StageError("the rankings come from different versions of one index", where=", ".join(sorted(set(places))),
                         hint="close the pipeline and run again")
    return dict(sorted(found.items(), key=lambda item: (item[1].uri, item[0])))


def _parts(store: PassageStore) -> Sequence[PassageStore]:
    return store.members if isinstance(store, Federation) else (store,)


def _numbered(store: PassageStore, rows: Rows, numbers: Mapping[str, int]) -> Rows:
    """The rows of ``store`` as the federation's in which ``numbers`` are the members'."""
    if len(rows) and not isinstance(store, Federation) and not 0 <= rows.min() <= rows.max() < 1 << _BITS:
        raise StageError("a row does not fit into a federation", where=store.uri or "PassageList",
                         hint=f"rows are 0 to 2**{_BITS}")
    federated = np.empty(len(rows), dtype=np.int64)
    parts = store.split(rows) if isinstance(store, Federation) else [(store, rows, np.arange(len(rows)))]
    for member, own, places in parts:
        federated[places] = own + (numbers[member.fingerprint] << _BITS)
    return federated


def store_to_dict(store: PassageStore, rows: Rows) -> dict[str, Any]:
    """Plain JSON: a store on disk is named, one in memory gives the passages of ``rows``, a federation does so for each
    member."""
    said: dict[str, Any] = {"store": {"uri": store.uri, "fingerprint": store.fingerprint}, "passages": None}
    if isinstance(store, Federation):
        return {**said, "members": [{**store_to_dict(part, own), "rows": own.tolist()}
                                    for part, own, _ in store.split(rows)]}
    return said if store.uri else {**said, "passages": [passage.to_dict() for passage in store.passages(rows)]}


def store_from_dict(data: Mapping[str, Any], rows: Sequence[int], opened: PassageStore | Opener | None) -> PassageStore:
    """``opened`` is the store that ``data`` names, or what opens it.

    Raises ``ConfigError`` where it is needed and None, and ``FingerprintMismatch`` where what it opens has changed
    since.
    """
    named = data["store"]
    if "members" in data:
        opener = opened if callable(opened) else None
        return Federation([store_from_dict(member, member["rows"], opener) for member in data["members"]])
    if data["passages"] is not None:
        found = [Passage.from_dict(passage) for passage in data["passages"]]
        return PassageList.excerpt(dict(zip(rows, found, strict=True)), str(named["fingerprint"]))
    if opened is None:
        raise ConfigError(f"this ranking's passages are in {named['uri']!r}", where="Ranking.from_dict",
                          hint="pass the opened store, or what opens it: regard.rag.dag.stores.open_store")
    if not callable(opened):
        return opened
    store = opened(named["uri"])
    if store.fingerprint != named["fingerprint"]:
        raise FingerprintMismatch("the store is not what it was when this ranking was made", where=str(named["uri"]),
                                  hint="rank anew")
    return store
