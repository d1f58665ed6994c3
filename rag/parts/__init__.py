"""Things with settings: what they are made of, how they are named, and what identifies them.

May import: ``rag.nouns`` and the files at the bottom of ``rag``.
"""
