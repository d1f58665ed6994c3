"""Views for people: rankings, answers, traces, attention and pipelines as HTML and SVG, and the report.

Lives here: ``display`` (HTML of nouns and traces), ``drawing`` with ``layout`` and ``labels`` (a pipeline as SVG and Mermaid),
``attention_view``, ``report``, ``style``. Nouns find their renderer in the table below, under their class's name.
May import: ``rag.nouns``, ``rag.dag``, and what those may.
"""

RENDERERS = {
    "Answer": ".display:answer_html",
    "Attention": ".attention_view:attention_view",
    "Graph": ".display:graph_html",
    "Ranking": ".display:ranking_html",
    "Result": ".display:result_html",
    "Trace": ".display:trace_html",
}
