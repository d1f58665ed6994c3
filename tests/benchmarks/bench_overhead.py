"""What a pipeline adds to a BM25 query: the pipeline against bm25s called directly (same index object, analysis and k)."""

from __future__ import annotations

from common import Figures, alternate, arguments, collection, collection_index, median
from regard.rag import Pipeline, Query
from regard.rag.evaluation import read_beir
from regard.retrievers import BM25


def main() -> None:
    parser = arguments(__doc__, cache=True)
    parser.add_argument("--queries", type=int, default=1200, help="how many, claims of SciFact (default: %(default)s)")
    parser.add_argument("-k", type=int, default=100, help="passages a query (default: %(default)s)")
    options = parser.parse_args()
    claims = [query.text for query in read_beir(collection("scifact")).queries]
    p = Pipeline("bm25")
    p.output(passages=p.add(BM25(collection_index("scifact", options.cache, encoder="minilm"), k=options.k), p.input(Query)))
    with p:
        p.open()
        view = p.nodes["bm25"].stage._view  # type: ignore[attr-defined]  # the very index that the pipeline searches
        analyze, index = view._analyze, view.index

        def direct(text: str) -> object:
            known = index.vocab_dict
            return index.retrieve([[known[t] for t in analyze(text) if t in known]], k=options.k, show_progress=False)

        for text in claims[:50]:  # compiles, and fills the analysis's memory
            direct(text), p.run(text)
        bare, whole = [], []
        for i in range(options.queries // 2):
            text = claims[i % len(claims)]
            times = alternate(lambda t=text: direct(t), lambda t=text: p.run(t), 2)
            bare += [seconds * 1e3 for seconds in times[0]]
            whole += [seconds * 1e3 for seconds in times[1]]
    figures = Figures()
    figures.show(f"BM25 query, bm25s directly (median of {len(bare)})", median(bare), "ms")
    figures.show(f"BM25 query, through a pipeline (median of {len(whole)})", median(whole), "ms")
    overhead = [b - a for a, b in zip(bare, whole, strict=True)]
    figures.show("pipeline's overhead (median of the paired differences)", median(overhead), "ms", ("<", 1.0))
    figures.exit()


if __name__ == "__main__":
    main()
