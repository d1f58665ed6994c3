"""Corpus readers: from files on disk (or the running Python's own documentation) to a stream of documents.

Lives here: ``read`` (the door: which reader, how many documents), ``files`` (folders of text, Markdown, HTML, PDF) with
``decoding``, ``html``, ``markdown`` and ``pdf``; ``records`` (what a JSON object, a table row or a Python object says
about a document) with ``jsonl``, ``parquet`` and ``objects`` (lists, data frames, datasets); ``trec`` (TREC's SGML);
``python_docs`` with ``python_modules`` (docstrings); ``skips`` (what could not be read, and why). What comes from
others is held to ``limits``: ``opening`` (no devices, no links that lead out), ``lines`` (records, compressed files),
``parsing`` with ``parsers`` and ``parser_process`` (time and memory of one document).

Every reader streams: one document is in memory at a time. A bad document, and one that goes over a limit, is a counted
:class:`Skip`; a source that cannot be read at all is a ``CorpusError``.
"""

from .limits import Limits
from .read import FORMATS, detect_format, estimate_size, read_corpus
from .skips import OnSkip, Skip

__all__ = ["FORMATS", "Limits", "OnSkip", "Skip", "detect_format", "estimate_size", "read_corpus"]
