"""The DAG: ports, stages, pipelines, and how they run.

Lives here, from the bottom up: ``graph`` (what drawings are made of), ``threads``, ``trace``, ``ports``, ``scope``
(what a run has open), ``stores`` (opened by name), ``stage``, ``function`` (one as a stage), ``plan`` (a DAG as a
value), ``draft`` (building one), ``check``, ``cache``, ``executor``, ``config`` (YAML), ``compose`` (``>>``),
``control`` (stages that hold plans), ``pipeline``. May import: ``rag.parts``, ``rag.nouns`` and the files at the bottom
of ``rag``.
"""

OPERATORS = {"then": ".pipeline:stage_then", "together": ".pipeline:stages_together"}
CONTROL = {
    "Begin": ".control:Begin",
    "Cascade": ".control:Cascade",
    "Choose": ".control:Choose",
    "Each": ".control:Each",
    "Function": ".function:Function",
    "Hops": ".control:Hops",
    "Loop": ".control:Loop",
}
