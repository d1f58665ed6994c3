"""MaxSim over ragged passages against maxsim-cpu and torch's packed product with segment_reduce; what int8 costs in
agreement.

Times are over random unit vectors: 1,000 passages of 30 to 180 tokens, 128 dimensions, 32 query tokens. Agreement is
over token vectors of minilm for SciFact's abstracts and claims. maxsim-cpu is no dependency: `pip install --no-deps
--target DIR maxsim-cpu`, PYTHONPATH=DIR.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from itertools import islice

import numpy as np
import torch
from common import Figures, alternate, arguments, collection, median
from regard.indexers.corpus import read_corpus
from regard.kernels.maxsim import maxsim, quantize_tokens
from regard.rag.evaluation import read_beir
from regard.rag.models import resolve
from scipy.stats import kendalltau
from torch import Tensor
from torch.nn.functional import normalize


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=31, help="runs of each (default: %(default)s)")
    parser.add_argument("--passages", type=int, default=1_000, help="(default: %(default)s)")
    parser.add_argument("--claims", type=int, default=50,
                        help="SciFact claims for the agreement, 0 to skip it (default: %(default)s)")
    options = parser.parse_args()
    figures = Figures()
    timing(figures, options.passages, options.rounds)
    if options.claims:
        agreement(figures, options.passages, options.claims)
    figures.exit()


def timing(figures: Figures, passages: int, rounds: int) -> None:
    random = torch.Generator().manual_seed(0)
    lengths = torch.randint(30, 181, (passages,), generator=random)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    tokens = normalize(torch.randn(int(offsets[-1]), 128, generator=random), dim=1)
    query = normalize(torch.randn(32, 128, generator=random), dim=1)
    codes, scales = quantize_tokens(tokens)
    print(f"# {passages} passages, {len(tokens)} tokens; to read them once in float32 is {tokens.nbytes / 1e6:.0f} MB")

    def ours() -> Tensor:
        return maxsim(query, tokens, offsets)

    peers: dict[str, Callable[[], object]] = {
        "torch, packed product and segment_reduce": lambda: torch.segment_reduce(tokens @ query.T, "max",
                                                                                 lengths=lengths, axis=0).sum(1),
    }
    if importlib.util.find_spec("maxsim_cpu"):
        import maxsim_cpu

        documents = [tokens[a:b].numpy() for a, b in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)]
        peers["maxsim-cpu"] = lambda: maxsim_cpu.maxsim_scores_variable(query.numpy(), documents)
        assert np.allclose(peers["maxsim-cpu"](), ours(), atol=1e-4)
    else:
        print("# maxsim-cpu is not installed: left out")
    best, own = np.inf, []
    for name, peer in peers.items():
        ours(), peer()
        mine, theirs = alternate(ours, peer, rounds)
        own += mine
        best = min(best, median(theirs))
        figures.show(name, median(theirs) * 1e3, "ms", digits=2)
    figures.show("maxsim, float32", median(own) * 1e3, "ms", digits=2)
    figures.show("maxsim's speed relative to the best peer", best / median(own), "x", (">=", 1.5), digits=2)
    half, bfloat = tokens.half(), tokens.bfloat16()
    figures.show("maxsim, float16", timed(lambda: maxsim(query, half, offsets), rounds), "ms", digits=2)
    figures.show("maxsim, bfloat16", timed(lambda: maxsim(query, bfloat, offsets), rounds), "ms", digits=2)
    figures.show("maxsim, int8", timed(lambda: maxsim(query, codes, offsets, scales=scales), rounds), "ms", digits=2)


def timed(call: Callable[[], object], rounds: int) -> float:
    call()
    return median(alternate(call, lambda: None, rounds)[0]) * 1e3


def agreement(figures: Figures, passages: int, claims: int) -> None:
    """Each claim ranks the passages in float32 and in int8."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(resolve("minilm").path, device="cpu")

    def vectors(texts: list[str]) -> list[Tensor]:
        return [normalize(one, dim=1)
                for one in model.encode(texts, output_value="token_embeddings", show_progress_bar=False)]

    documents = [f"{d.title}\n{d.text}" for d in islice(read_corpus(collection("scifact"), on_skip=print), passages)]
    each = vectors(documents)
    tokens, offsets = torch.cat(each), torch.tensor([0, *map(len, each)]).cumsum(0)
    codes, scales = quantize_tokens(tokens)
    taus, overlaps, errors = [], [], []
    for query in vectors([q.text for q in read_beir(collection("scifact")).queries[:claims]]):
        exact, rounded = maxsim(query, tokens, offsets), maxsim(query, codes, offsets, scales=scales)
        taus.append(kendalltau(exact, rounded).statistic)
        overlaps.append(len(set(exact.topk(10)[1].tolist()) & set(rounded.topk(10)[1].tolist())) / 10)
        errors.append(float(((rounded - exact).abs() / exact.abs()).max()))
    print(f"# {len(documents)} abstracts, {len(tokens)} tokens x {tokens.shape[1]}, {len(taus)} claims")
    figures.show("int8: Kendall tau with float32, mean over claims", float(np.mean(taus)), digits=4)
    figures.show("int8: the same, lowest", min(taus), digits=4)
    figures.show("int8: overlap of the ten best", float(np.mean(overlaps)), digits=4)
    figures.show("int8: greatest relative error of a score", max(errors), digits=4)


if __name__ == "__main__":
    main()
