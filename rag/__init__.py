"""The core: the nouns, the DAG and how it runs, the language-model engine, evaluation, the command line.

Lives here: ``documents`` (Document, Passage, Query, Ranking, ...), ``stage``, ``ports``, ``settings`` and ``pipeline`` (the typed DAG),
``identity`` (what a value is, for fingerprints), ``config`` (YAML), ``executor``, ``scope`` (what its stages open together),
``threads``, ``cache``, ``trace`` (running it); ``files`` (paths, whole or not at all, lines);
``plain``, ``inert``, ``trust`` (YAML and JSON, model folders, keys and models of others: what they may do); ``models`` (finding and
sharing models), ``lm`` (the language-model engine), ``verification`` (what judges an answer's sentences), ``evaluation``, ``display``
with ``markup`` (views for people), ``cli`` with ``terminal`` (the ``regard`` command), ``integrations``, and ``top`` (the package
``regard`` itself).

May import: ``kernels`` and nothing else of Regard. Stages of the other folders are found through the registry
(entry-point group ``regard.stages``). Importing this package loads no torch.
"""

from typing import TYPE_CHECKING

from .tables import lazy

if TYPE_CHECKING:
    from .dag.pipeline import Pipeline
    from .dag.stage import Stage
    from .nouns import Answer, Batch, Citation, Context, Document, Hit, Passage, PassageList, Query, Ranking, Sentence, Usage

_PLACES = {
    "Pipeline": ".dag.pipeline:Pipeline",
    "Stage": ".dag.stage:Stage",
    **{noun: f".nouns:{noun}" for noun in (
        "Answer", "Batch", "Citation", "Context", "Document", "Hit", "Passage", "PassageList", "Query", "Ranking", "Sentence",
        "Usage")},
}
__all__ = [
    "Answer", "Batch", "Citation", "Context", "Document", "Hit", "Passage", "PassageList", "Pipeline", "Query", "Ranking",
    "Sentence", "Stage", "Usage",
]
__getattr__ = lazy(__name__, _PLACES)
