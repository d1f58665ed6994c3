"""Reranking by a language model's own attention.

Lives here: ``stage`` (``AttentionReranker``), ``policies`` (which attention counts, and how; a file a method) and
``detect`` (which heads tell relevant passages apart).
"""
