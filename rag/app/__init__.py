"""The roof: the command line, what people call first, adapters. Nothing imports it.

Lives here: ``cli`` (a file a command) with ``terminal`` (what it prints), ``rag`` and ``rerank`` (one line each to
answer and to rank), ``presets`` (the default pipeline), ``batch``, ``demo``, ``doctor``, ``methods`` (what the tables
hold), ``integrations``. May import: every folder.
"""
