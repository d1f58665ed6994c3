"""Cached passages: keys and values by a language model, computed once at indexing time, so that reranking runs only the
query.

Lives here: ``kind`` (the view kind), ``job`` (computes a view), ``cached`` (a view in memory), ``opening`` (finds the
one that a reranker asks for), ``shards`` and ``layout`` (how it lies on disk), ``footprint`` (what it will take). May
import: what ``views`` may, and ``kind``, ``versions`` and ``files`` of that.
"""
