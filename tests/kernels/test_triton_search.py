"""The search kernels' Triton path against the reference: on a GPU where there is one, else under Triton's interpreter
in a second process.

The interpreter must be asked for before triton is imported, so that ``test_under_the_interpreter`` runs this file
again; there products of bfloat16 are wrong, so that queries of that dtype are left to a GPU.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from regard.kernels.codes import encode_codes
from regard.kernels.maxsim import maxsim, quantize_tokens
from regard.kernels.topk_search import topk_search

pytest.importorskip("triton")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"
runs_triton = pytest.mark.skipif(DEVICE == "cpu" and not INTERPRETED,
                                 reason="runs under TRITON_INTERPRET=1, or on a GPU")


@pytest.mark.skipif(INTERPRETED or DEVICE == "cuda", reason="the tests below run as they are")
def test_under_the_interpreter():
    done = subprocess.run([sys.executable, "-m", "pytest", "-x", __file__], env={**os.environ, "TRITON_INTERPRET": "1"},
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "passed" in done.stdout


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def topk(queries: torch.Tensor, vectors: torch.Tensor, k: int, **more) -> tuple[torch.Tensor, torch.Tensor]:
    codes = more.pop("codes", None)
    found = topk_search(queries.to(DEVICE), vectors.to(DEVICE), k, path="triton",
                        codes=None if codes is None else codes.to(DEVICE), **more)
    return found[0].cpu(), found[1].cpu()


@runs_triton
@pytest.mark.parametrize("seed", [torch.randint(1 << 30, ()).item()])
@pytest.mark.parametrize(("batch", "n", "d", "k"),
                         [(1, 700, 64, 10), (3, 130, 70, 130), (20, 300, 96, 25), (1, 5, 3, 9), (35, 200, 33, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_topk_search_is_exact(seed, batch, n, d, k, dtype):
    queries, vectors = random(seed, batch, d), random(seed + 1, n, d).to(dtype)
    scores, indices = topk(queries, vectors, k)
    exact = queries.double() @ vectors.double().T
    wanted = exact.sort(dim=1, descending=True)[0][:, :k]
    assert scores.shape == indices.shape == wanted.shape
    assert float((scores - wanted).abs().max()) < 1e-5 * d**0.5
    assert float((exact.gather(1, indices) - wanted).abs().max()) < 1e-5 * d**0.5


@runs_triton
def test_topk_search_with_half_precision_queries():
    queries, vectors = random(0, 20, 64).half(), random(1, 300, 64).half()
    scores, indices = topk(queries, vectors, 7)
    wanted, best = topk_search(queries.float(), vectors, 7, path="cpu")
    assert torch.equal(indices, best)
    torch.testing.assert_close(scores, wanted, rtol=1e-5, atol=1e-5)


@runs_triton
@pytest.mark.parametrize("batch", [1, 20])
def test_equal_scores_come_by_index(batch):
    vectors = random(0, 3, 16)[torch.arange(1_000) % 3]
    queries = random(1, batch, 16)
    assert torch.equal(topk(queries, vectors, 400)[1], topk_search(queries, vectors, 400, path="cpu")[1])


@runs_triton
def test_a_query_scores_the_same_alone():
    queries, vectors = random(0, 20, 48), random(1, 500, 48)
    scores, indices = topk(queries, vectors, 9)
    for i in (0, 7, 19):
        alone = topk(queries[i:i + 1], vectors, 9)
        assert torch.equal(alone[1][0], indices[i])
        torch.testing.assert_close(alone[0][0], scores[i], rtol=0, atol=1e-5)


@runs_triton
@pytest.mark.parametrize("kind", ["int8", "binary"])
@pytest.mark.parametrize(("batch", "d"), [(1, 64), (18, 70)])
def test_codes_find_the_neighbours(kind, batch, d):
    vectors = random(0, 400, d)
    queries = vectors[:batch] + 0.3 * random(1, batch, d)
    scores, indices = topk(queries, vectors, 5, codes=encode_codes(vectors, kind),
                           oversample=4 if kind == "int8" else 20)
    exact_scores, exact = topk_search(queries, vectors, 5, path="cpu")
    assert (indices[:, :, None] == exact[:, None, :]).any(dim=2).float().mean() > 0.97
    torch.testing.assert_close(scores[:, 0], exact_scores[:, 0], rtol=1e-5, atol=1e-5)


@runs_triton
@pytest.mark.parametrize("batch", [1, 20])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_vector_that_is_not_finite_is_refused(batch, value):
    vectors = random(0, 600, 30)
    vectors[432, 7] = value
    with pytest.raises(ValueError, match="NaN or infinite"):
        topk(random(1, batch, 30).abs() + 0.1, vectors, 3)


@runs_triton
@pytest.mark.parametrize("seed", [torch.randint(1 << 30, ()).item()])
@pytest.mark.parametrize(("count", "d"), [(32, 128), (5, 48), (70, 20), (1, 1), (33, 300)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int8])
def test_maxsim_is_the_definition(seed, count, d, dtype):
    lengths = [0, 1, 90, 0, 17, 64, 2]
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    tokens, batch, scales = random(seed, sum(lengths), d), random(seed + 1, 2, count, d), None
    if dtype == torch.int8:
        tokens, scales = quantize_tokens(tokens)
    tokens = tokens.to(dtype)
    on_device = None if scales is None else scales.to(DEVICE)
    got = maxsim(batch.to(DEVICE), tokens.to(DEVICE), offsets.to(DEVICE), path="triton", scales=on_device)
    wanted = maxsim(batch, tokens, offsets, scales=scales, path="reference").double()
    assert got.isfinite().all()
    assert float((got.cpu() - wanted).norm() / wanted.norm()) < 1e-5
    assert (got[:, [0, 3]] == 0).all()


@runs_triton
def test_maxsim_of_nan_is_nan_and_masked_tokens_count_nothing():
    tokens, offsets, batch = random(0, 60, 16), torch.tensor([0, 20, 40, 60]), random(1, 2, 20, 16)
    tokens[33, 4] = torch.nan
    mask = torch.ones(2, 20, dtype=torch.bool)
    mask[0, 11:] = False
    got = maxsim(batch.to(DEVICE), tokens.to(DEVICE), offsets, query_mask=mask.to(DEVICE), path="triton").cpu()
    assert got.isnan().tolist() == [[False, True, False]] * 2
    alone = maxsim(batch[0, :11], tokens, offsets, path="cpu")
    torch.testing.assert_close(got[0, [0, 2]], alone[[0, 2]], rtol=1e-5, atol=1e-5)
