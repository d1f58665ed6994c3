"""Views for people: rankings, answers, traces, attention and pipelines as HTML and SVG, and the report.

Lives here, each module importing those before it: ``style``, ``labels``, ``layout`` and ``drawing`` (a pipeline as SVG
and Mermaid), ``display`` (HTML of nouns and traces, and the page around it), ``attention`` (what carried a ranking's
scores), ``report``. Nouns, traces and pipelines find their renderer in the table below. May import: ``rag.nouns``,
``rag.dag.graph``, ``rag.dag.trace``, ``rag.models.verification``, and the files at the bottom of ``rag``.
"""

RENDERERS = {
    "Answer": ".display:answer_html",
    "Attention": ".attention:attention_map",
    "Graph": ".display:graph_html",
    "Mermaid": ".drawing:to_mermaid",
    "Ranking": ".display:ranking_html",
    "Result": ".display:result_html",
    "SVG": ".drawing:to_svg",
    "Trace": ".display:trace_html",
}
