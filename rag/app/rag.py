"""Questions to one's own documents in one line: index them, and ask the default pipeline."""

from __future__ import annotations

import hashlib
import html
import os
import re
import shutil
import sys
import tempfile
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

from .. import models
from ..errors import ConfigError
from ..files import local_path
from ..markup import visible
from ..nouns import Answer, Query, Ranking
from ..tables import table
from .presets import READ, default_pipeline

Source = str | Path | Sequence[str | Path] | Iterable[Any]
_PYTHON = "python:"


class RAG:
    """Answers questions from documents: it indexes them, and asks the default pipeline
    (:func:`.presets.default_pipeline`).

        with RAG("docs/") as rag:
            print(rag.ask("How long does a flea live?"))
            print(rag.search("life cycle", k=5).passages())

    ``source`` is all that ``build_index`` takes: files, folders, ``python:``, or documents; None reads an ``index``
    that is there. ``index`` is the index folder. None: a folder below ``cache_dir()/indexes`` that this source has with
    this encoder and chunker, which is said on standard error and is found again, so that what has not changed is not
    encoded anew; documents in Python get a folder that goes with this object. ``encoder`` and ``chunker`` are
    ``build_index``'s; ``lm``, ``cross_encoder`` and ``read`` (how many passages the reader is shown) the default
    pipeline's. ``prune`` deletes what is no longer in the source.

    The models are loaded by the first question and stay until :meth:`close`, or until nobody holds the object. Raises
    what ``build_index`` raises (``CorpusError``, ``EmptyCorpusError``, ``StorageError``, ...), ``ConfigError`` without
    a source and an index, ``IndexNotFound``.
    """

    def __init__(
        self, source: Source | None = None, index: str | Path | None = None, *, encoder: str | None = "auto",
        chunker: str = "auto", lm: str = "smollm2", cross_encoder: str = "minilm-cross-encoder", read: int = READ,
        prune: bool = False, progress: bool | None = None,
    ) -> None:
        if source is None and index is None:
            raise ConfigError("there is nothing to ask", where="RAG", hint='RAG("docs/"), or RAG(index="my-index")')
        self._settings = {"encoder": encoder, "chunker": chunker, "prune": prune, "progress": progress}
        self.source = source
        self.index = local_path(index, "index") if index is not None else self._place(source)
        """The index folder."""
        self.report: Any = None
        """What the last indexing did, an ``IndexReport``; None where there was none."""
        if source is not None:
            self._update(source)
        self.pipeline = default_pipeline(self.index, lm=lm, cross_encoder=cross_encoder, read=read)
        """From a query to ``passages`` and ``answer``."""
        self._search = default_pipeline(self.index, answer=False, cross_encoder=cross_encoder)

    def ask(self, question: str | Query) -> Answer:
        """The answer, with its citations; ``print`` shows its text. Raises ``EmptyQueryError``."""
        answer: Answer = self.pipeline.run(question).answer
        return answer

    def search(self, query: str | Query, k: int = 10) -> Ranking:
        """The best ``k`` passages. Raises ``EmptyQueryError``, and ``ConfigError`` for a ``k`` below 1."""
        ranking: Ranking = self._search.run(query).passages
        return ranking.top(k)

    def update(self) -> Any:
        """Read the source again, encode what is new or changed, and go on with it; gives the ``IndexReport``.

        Raises ``ConfigError`` where there is no source to read again.
        """
        if self.source is None or _runs_dry(self.source):
            raise ConfigError("there is no source to read again", where=f"RAG of {self.index}",
                              hint="make one with a source: RAG(source, index)")
        self._update(self.source)
        for pipeline in (self.pipeline, self._search):
            pipeline.refresh()
        return self.report

    def close(self) -> None:
        """Let go of the models; the next question loads them again."""
        self.pipeline.close()
        self._search.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        passages = "" if self.report is None else f", {self.report.total_passages:,} passages"
        return f"RAG({_shown(self.source)}, index={str(self.index)!r}{passages})"

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(visible(repr(self)))}</p>{self.pipeline._repr_html_()}"

    def _update(self, source: Source) -> None:
        self.report = table("regard.jobs")["index"](source, self.index, **self._settings)

    def _place(self, source: Source | None) -> Path:
        """A folder for the index of ``source``: always the same one for files and folders."""
        named = _names(source)
        if not named:
            own = tempfile.mkdtemp(prefix="regard-")
            weakref.finalize(self, shutil.rmtree, own, ignore_errors=True)
            return Path(own) / "index"
        chosen = [name for name in ("encoder", "chunker") if self._settings[name] != "auto"]
        made_by = [f"{name}={self._settings[name]}" for name in chosen]
        place = models.cache_dir() / "indexes" / _slug(named, made_by)
        if self._settings["progress"] is not False:
            print(visible(f"the index of {_shown(source)} is {place}"), file=sys.stderr)
        return place


def _names(source: Any) -> list[str]:
    """Each file or folder by its real path, ``python:`` by the Python that it is of; none for documents."""
    several = source if isinstance(source, list | tuple) else [source]
    if not all(isinstance(one, str | os.PathLike) for one in several):
        return []
    return [f"{sys.prefix}/{one}" if str(one).startswith(_PYTHON) else str(local_path(one, "source").resolve())
            for one in several]


def _slug(named: Sequence[str], made_by: Sequence[str]) -> str:
    """A folder's name that tells people what it is of, and differs for what differs."""
    word = re.sub(r"[^\w.-]+", "-", Path(named[0]).name).strip("-.")[:40] or "index"
    key = "\0".join([*named, *made_by]).encode("utf-8", "surrogateescape")
    return f"{word}-{hashlib.blake2b(key, digest_size=6).hexdigest()}"


def _runs_dry(source: Any) -> bool:
    """Whether it can be read only once, as a generator."""
    return isinstance(source, Iterable) and iter(source) is source


def _shown(source: Any) -> str:
    if isinstance(source, str | os.PathLike):
        return f"{os.fspath(source)!r:.200}"
    return f"{source!r:.200}" if _names(source) else "None" if source is None else f"<{type(source).__name__}>"
