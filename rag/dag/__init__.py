"""The DAG: ports, stages, pipelines, and how they run.

May import: ``rag.parts``, ``rag.nouns`` and the files at the bottom of ``rag``.
"""
