"""Every error that Regard raises on purpose: what was wrong, where, and what to do."""

from __future__ import annotations


class RegardError(Exception):
    """Base of all of Regard's errors.

    ``what`` says what was wrong, ``where`` names the place (a file and line, a stage, an index), ``hint`` says what to
    do.
    """

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        self.what = what
        self.where = where
        self.hint = hint
        super().__init__(what, where, hint)

    def __str__(self) -> str:
        place = f" [{self.where}]" if self.where else ""
        advice = f"\n  -> {self.hint}" if self.hint else ""
        return f"{self.what}{place}{advice}"


class ConfigError(RegardError):
    """A setting or a configuration file is not valid."""


class PipelineError(RegardError):
    """The DAG is not valid: a cycle, an unconnected port, a dead output."""


class PortTypeError(PipelineError):
    """Two ports were connected whose types do not meet."""


class StageError(RegardError):
    """A stage broke its contract while it ran (wrong batch size, scores that are not finite)."""


class MissingDependency(RegardError):
    """An optional package is not installed; the hint names the extra that brings it."""


class ModelNotFound(RegardError):
    """A model name resolves to nothing on this machine or on the hub."""


class UntrustedModel(RegardError):
    """A file from others chose a model that the user of this machine has not."""


class UnsupportedModel(RegardError):
    """A model cannot serve the operation that was asked of it."""


class CorpusError(RegardError):
    """A corpus cannot be read at all (a single bad document is a counted ``Skip`` instead)."""


class EmptyCorpusError(CorpusError):
    """A source gave no document."""


class EmptyQueryError(RegardError):
    """A query has no text."""


class QueryError(RegardError):
    """A query cannot be answered as it stands (a filter that means nothing, a file of queries that cannot be read)."""


class IndexNotFound(RegardError):
    """A folder holds no Regard index, or the index lacks the view that was asked for."""


class IndexFormatError(RegardError):
    """An index was written by something else, or is damaged."""


class FingerprintMismatch(RegardError):
    """An index was built with another encoder or chunker than the one that opens it."""


class DimensionMismatch(RegardError):
    """Vectors have another dimension than the index."""


class StorageError(RegardError):
    """The disk refused a write (full, read-only); what was committed before is safe."""


class DeletionRefused(RegardError):
    """What is to be deleted is still in use (a tag, an open reader), or is so much that it looks like a mistake."""


class BudgetError(RegardError):
    """A prompt cannot fit the model's window."""


class RemoteError(RegardError):
    """A remote server refused, failed or did not answer."""


class EvaluationError(RegardError):
    """A run, qrels file or metric name cannot be used."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C stopped a job that had committed part of its work; the message says how much. No ``RegardError``: it
    passes ``except Exception``, as every ``KeyboardInterrupt`` does."""
