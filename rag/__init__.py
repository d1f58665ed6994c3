"""The core: the nouns, parts, the DAG and how it runs, models, the language-model engine, evaluation, the command line.

Lives here, floor by floor; each may import those before it:

- ``errors``, ``tables`` (names to places), ``files``, ``text``, ``markup``, ``progress``, ``plain`` (limited YAML and
  JSON), ``trust`` (which key may go where), ``extras`` (what is optional);
- ``nouns`` (Document, Passage, Query, Ranking, Answer, ...);
- ``parts`` (things with settings: how they are made, named and told apart);
- ``dag`` (stages, plans, pipelines, control, files, running);
- ``models`` (where they come from, how they are shared; encoders and verifiers);
- ``lm`` (the language-model engine);
- ``evaluation``; ``show`` (views for people);
- ``app``, the roof (the command line, ``RAG``, presets, adapters), and ``top`` (the package ``regard`` itself): they
  may import every folder, and nothing imports them.

May import: ``kernels``, and nothing else of Regard but in the roof. What lives in the other folders is found through
tables. Importing this package loads no torch.
"""

from typing import TYPE_CHECKING

from .tables import lazy

if TYPE_CHECKING:
    from .dag.pipeline import Pipeline
    from .dag.stage import Stage
    from .nouns import (
        Answer,
        Batch,
        Citation,
        Context,
        Document,
        Hit,
        Passage,
        PassageList,
        Query,
        Ranking,
        Sentence,
        Usage,
    )

_PLACES = {
    "Pipeline": ".dag.pipeline:Pipeline",
    "Stage": ".dag.stage:Stage",
    **{noun: f".nouns:{noun}" for noun in (
        "Answer", "Batch", "Citation", "Context", "Document", "Hit", "Passage", "PassageList", "Query", "Ranking",
        "Sentence",
        "Usage")},
}
__all__ = [
    "Answer", "Batch", "Citation", "Context", "Document", "Hit", "Passage", "PassageList", "Pipeline", "Query",
    "Ranking",
    "Sentence", "Stage", "Usage",
]
__getattr__ = lazy(__name__, _PLACES)
