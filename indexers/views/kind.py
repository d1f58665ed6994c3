"""View kinds: parts that say what a view is made of, and build, extend and load it. A kind is a module of this package,
or another's.

    class HNSW(ViewKind):
        queries = "vectors"
        m: Count = 32
        encoder: str = ""

    hnsw    hnsw:m=48    hnsw:m=48,encoder=minilm    {"part": "hnsw", "m": 48}

The views of older indexes were named ``faiss:hnsw,m=48@minilm``; such texts, and their descriptions on disk, are
understood.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self, TypeGuard

from ...rag.errors import ConfigError, IndexNotFound, RegardError, StageError
from ...rag.nouns import Rows, Scores
from ...rag.parts import Part, parse, part, plain, text_of
from ..integrity import Files
from ..stores.lance.store import LanceStore

PENDING = "pending-"
"""How the names of folders in a view's folder begin that outlive a build which is killed. They go when the view is in
place."""

_ENCODER_LAST = re.compile(r"(\w+(?:,\w+=[^,@]*)*)@(.+)", re.DOTALL)
_FORMER_KEYS = {"kind", "encoder", "parameters"}


class View(Protocol):
    """A view in memory. ``rows`` int64: the passage row of each of its positions."""

    rows: Rows

    def save(self, folder: Path) -> Files | None:
        """Write its files; gives the digests of those whose digests are known, the others are read again."""


class SearchView(View, Protocol):
    """One that is searched."""

    def search(self, queries: Any, k: int, allowed: Rows | None = None) -> tuple[Rows, Scores]:
        """The ``k`` best passages of each query, among the rows ``allowed``.

        ``queries``: texts, or vectors float32 [n, d], as the kind says. Gives rows int64 [n, k] and scores float32 [n,
        k], best first, equal scores by row; row -1 where there are fewer.
        """


class ViewKind(Part):
    """Base of the view kinds.

    A setting ``encoder`` names the dense encoder whose stored vectors a view is made of (empty: the index's own), a
    setting ``lm`` the language model that computes it. ``identity()`` is what else decides what it holds for a passage
    (a weights hash): a view of another identity is built anew.
    """

    group = "regard.views"

    queries: ClassVar[Literal["texts", "vectors"] | None] = None
    """What ``SearchView.search`` takes; None for a view that is not searched."""

    needs_text: ClassVar[bool] = False
    """Whether it is made of the passages' text."""

    exact: ClassVar[bool] = False
    """Whether a search finds what comparing the query with every passage finds."""

    stem: ClassVar[str] = ""
    """How the names of its folders begin; by default its own name."""

    # -- what a kind may override --------------------------------------------------

    def build(self, store: LanceStore, home: Path, progress: bool | None = None) -> View:
        """The view of all passages of ``store``.

        What takes long shows its ``progress`` (as ``build_index`` does) and keeps what is done in folders
        ``PENDING...`` of ``home``, the folder of this view's versions, from where the next build goes on.
        """
        raise NotImplementedError(f"{type(self).__name__} says how it is built")

    def extend(self, view: Any, store: LanceStore) -> View | None:
        """``view``, which was loaded for this, with the rows that ``store`` has gained; None where it must be built
        anew."""
        return None

    def load(self, folder: Path, rows: Rows) -> View:
        """The view whose ``save`` wrote into ``folder``. Raises ``IndexFormatError`` for files that are not what they
        should be."""
        raise NotImplementedError(f"{type(self).__name__} says how it is loaded")

    def expect_installed(self) -> None:
        """Raise ``MissingDependency`` where a package is missing, before any work is done."""

    def resolved(self) -> Self:
        """The same, with settings that a model decides in numbers."""
        return self

    def usual(self) -> bool:
        """Whether its settings are the defaults, whatever encoder or language model it is for."""
        return not self.changed().keys() - {"encoder", "lm"}

    # -- what every kind has -------------------------------------------------------

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Also as views were named at first: ``faiss:hnsw,m=48@minilm``."""
        return parse(cls, _as_now(text))

    @property
    def column(self) -> str | None:
        """The encoder whose stored vectors it is made of; None: it is made of none."""
        return getattr(self, "encoder", None)

    @property
    def model(self) -> str | None:
        """The language model that computes it; None: none does."""
        return getattr(self, "lm", None)

    def folders(self) -> tuple[str, str]:
        """The names that its folder may have: with the usual settings, with any others."""
        of = self.column or self.model or ""
        name = _folder_name(self.stem or self.part_name()) + (f"-{_folder_name(of)}" if of else "")
        settings = json.dumps([self.part_name(), plain(self.changed())], sort_keys=True)
        return name, f"{name}@{hashlib.blake2b(settings.encode(), digest_size=4).hexdigest()}"

    def expect_material(self, store: LanceStore) -> None:
        """Raise ``StageError`` or ``IndexNotFound`` for a store that lacks what it is made of."""
        if self.needs_text and not store.has_text:
            raise StageError(f"{self} needs the passages' text, and this index stores none", where=str(store.path),
                             hint="index again with text")
        if self.column is not None and self.column not in store.encoders:
            raise IndexNotFound(f"the index has no vectors of {self.column!r}, which {self} is made of",
                                where=str(store.path),
                                hint=f"it has {', '.join(store.encoders) or 'none'}")

    def __str__(self) -> str:
        return text_of(self)


def parse_view(view: str | ViewKind, default_encoder: str = "") -> ViewKind:
    """The kind that ``view`` names; one that is made of vectors and names no encoder takes ``default_encoder``.

    Raises ``ConfigError``, and where a language model decides settings what ``rag.lm.describe`` raises: it must be
    there.
    """
    kind = part(ViewKind, view)
    if kind.column == "":
        if not default_encoder:
            raise ConfigError(f"{kind} needs a dense encoder, and this index has none", where=f"view {str(view)!r}",
                              hint="name one: regard index ... --encoder minilm")
        kind = kind.replace(encoder=default_encoder)
    return kind.resolved()


def named_settings(kind: ViewKind, text: str) -> set[str]:
    """The settings that ``text``, from which ``kind`` was made, names: be it with their defaults."""
    settings = re.split("[:,]", _as_now(text))[1:]
    named = {item.partition("=")[0].strip() for item in settings if "=" in item} & set(kind.setting_names())
    return named if not settings or "=" in settings[0] else named | {kind.setting_names()[0]}


def _as_now(text: str) -> str:
    """``faiss:hnsw,m=48@minilm``, as views were named at first, as they are named now: ``hnsw,m=48,encoder=minilm``."""
    family, _, rest = text.partition(":")
    if family not in ViewKind.table() and re.split("[,@]", rest)[0] in ViewKind.table():
        text = rest
    match = _ENCODER_LAST.fullmatch(text)
    return f"{match[1]},encoder={json.dumps(match[2])}" if match else text


def stored_kind(data: Any) -> ViewKind | None:
    """The kind that the ``spec`` of a description stands for, of older releases too; None where there is none here that
    would."""
    try:
        return part(ViewKind, _former(data) if _is_former(data) else data) if isinstance(data, Mapping) else None
    except (RegardError, TypeError):
        return None


def _is_former(data: Any) -> TypeGuard[Mapping[str, Any]]:
    return (isinstance(data, Mapping) and set(data) == _FORMER_KEYS and isinstance(data["kind"], str)
            and isinstance(data["parameters"], Mapping))


def _former(data: Mapping[str, Any]) -> dict[str, Any]:
    """``{"kind": "faiss:hnsw", "encoder": "minilm", "parameters": {"m": 48, ...}}`` as a part's plain values."""
    name = data["kind"].rpartition(":")[2]
    settings = ViewKind.table()[name].setting_names()
    of = {setting: data["encoder"] for setting in ("encoder", "lm") if setting in settings}
    return {"part": name, **data["parameters"], **of}


def _folder_name(name: str) -> str:
    """``name`` where it can be a folder's; else its end with a hash, so that two models never share a folder."""
    if re.fullmatch(r"[\w-][\w.-]{0,99}", name, re.ASCII):
        return name
    end = re.sub(r"[^A-Za-z0-9_.-]+", "-", name)[-40:].strip(".-")
    return f"{end}-{hashlib.blake2b(name.encode(), digest_size=4).hexdigest()}"
