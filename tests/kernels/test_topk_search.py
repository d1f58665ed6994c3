"""topk_search against plain torch in float64: every path, storage and kind of codes; ties, NaN, shapes, batches."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from regard.kernels.codes import Codes, encode_codes
from regard.kernels.dispatch import taken
from regard.kernels.topk_search import topk_search, topk_search_reference

STORED = [torch.float32, torch.float16, torch.bfloat16]


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def expect_best(queries: torch.Tensor, vectors: torch.Tensor, k: int, scores: torch.Tensor,
                indices: torch.Tensor) -> None:
    """The result is the float64 definition's, up to swaps of what float32 cannot tell apart."""
    exact = queries.double() @ vectors.double().T
    wanted = exact.sort(dim=1, descending=True, stable=True)[0][:, :k]
    bound = 1e-6 * float(queries.double().norm(dim=1).max() * vectors.double().norm(dim=1).max()) + 1e-12
    assert scores.dtype == torch.float32
    assert indices.dtype == torch.int64
    assert scores.shape == indices.shape == (len(queries), min(k, len(vectors)))
    assert float((scores.double() - wanted).abs().max()) < bound
    assert float((exact.gather(1, indices) - wanted).abs().max()) < bound
    assert all(len(set(row.tolist())) == len(row) for row in indices)
    assert (scores[:, 1:] <= scores[:, :-1]).all()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31), batch=st.integers(1, 70), n=st.integers(1, 300), d=st.integers(1, 140),
    k=st.integers(1, 320),
    dtype=st.sampled_from(STORED), scale=st.sampled_from([1e-3, 1.0, 1e4]),
)
def test_equals_the_definition(seed, batch, n, d, k, dtype, scale):
    queries, vectors = random(seed, batch, d), (scale * random(seed + 1, n, d)).to(dtype)
    expect_best(queries, vectors, k, *topk_search(queries, vectors, k))


@pytest.mark.parametrize("batch", [1, 17, 40, 80])
def test_many_rows_on_many_threads(batch):
    """Enough rows for several chunks a thread, ascending scores too, where every row beats the ones before."""
    vectors = random(5, 40_000, 33)
    queries = random(6, batch, 33)
    ascending = vectors[(vectors @ queries[0]).argsort()]
    for rows in (vectors, ascending):
        expect_best(queries, rows, 50, *topk_search(queries, rows, 50))


def test_equal_scores_come_by_index():
    vectors = random(0, 7, 20)[torch.arange(30_000) % 7]
    queries = random(1, 9, 20)
    _, indices = topk_search(queries, vectors, 9_000)
    order = (queries @ vectors[:7].T).argsort(dim=1, descending=True)
    for row, best in zip(indices, order.tolist(), strict=True):
        wanted = [i for start in best for i in range(start, 30_000, 7)][:9_000]
        assert row.tolist() == wanted


@pytest.mark.parametrize("dtype", STORED)
@pytest.mark.parametrize("kind", [None, "int8", "binary"])
def test_a_query_scores_to_the_bit_the_same_alone_in_a_batch_and_on_one_thread(dtype, kind):
    queries, vectors = random(3, 100, 100), random(4, 5_000, 100).to(dtype)
    codes = None if kind is None else encode_codes(vectors, kind)
    scores, indices = topk_search(queries, vectors, 20, codes=codes)
    for i in range(0, 100, 9):
        alone = topk_search(queries[i:i + 1], vectors, 20, codes=codes)
        assert torch.equal(alone[0][0], scores[i])
        assert torch.equal(alone[1][0], indices[i])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        again = topk_search(queries, vectors, 20, codes=codes)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(again[0], scores)
    assert torch.equal(again[1], indices)


def test_searches_at_the_same_time_do_not_disturb_each_other():
    queries, vectors = random(3, 20, 64), random(4, 20_000, 64)
    wanted = topk_search(queries, vectors, 10)[1]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: topk_search(queries, vectors, 10)[1], range(16)))
    assert all(torch.equal(one, wanted) for one in found)


@pytest.mark.parametrize("dtype", STORED)
@pytest.mark.parametrize("kind", ["int8", "binary"])
@pytest.mark.parametrize("d", [3, 64, 97, 130])
def test_codes_find_the_neighbours_and_give_their_exact_scores(dtype, kind, d):
    vectors = random(0, 3_000, d).to(dtype)
    queries = vectors[::301].float() + 0.3 * random(1, 10, d)
    codes = encode_codes(vectors, kind)
    assert codes.kind == kind
    scores, indices = topk_search(queries, vectors, 10, codes=codes, oversample=8 if kind == "int8" else 60)
    exact_scores, exact = topk_search(queries, vectors, 10)
    hits = (indices[:, :, None] == exact[:, None, :]).any(dim=2)
    assert hits.float().mean() > (0.95 if d > 3 else 0.9)
    same = (indices == exact) & (scores == exact_scores)
    assert same.float().mean() > (0.9 if d > 3 else 0.5)


@pytest.mark.parametrize("kind", ["int8", "binary"])
def test_candidates_by_codes_are_the_references(kind):
    queries, vectors = random(0, 40, 100), random(1, 2_000, 100)
    codes = encode_codes(vectors, kind)
    fast, plain = (topk_search(queries, vectors, 10, codes=codes, oversample=4, path=path)
                   for path in ("cpu", "reference"))
    assert (fast[1] == plain[1]).float().mean() > 0.995  # two estimates may be equal but for float32's rounding
    torch.testing.assert_close(fast[0][:, 0], plain[0][:, 0], atol=1e-4, rtol=1e-5)


def test_the_estimate_of_binary_codes_is_unbiased():
    """The weights carry the scale: over many rows the estimates of inner products with a query average to the inner
    products."""
    vectors = 3 * random(0, 4_000, 256) + 1
    queries = vectors[:50]
    codes = encode_codes(vectors, "binary")
    centered = vectors - vectors.mean(dim=0)
    estimates = (queries @ codes.rotation) @ codes.signed().float().T * codes.weights
    exact = queries @ centered.T
    slope = (estimates * exact).sum() / exact.square().sum()
    assert float(slope) == pytest.approx(1, abs=0.02)


def test_codes_are_small_and_survive_safetensors(tmp_path: Path):
    from safetensors.torch import load_file, save_file

    vectors = random(0, 1_000, 384)
    for kind, size in (("int8", 388), ("binary", 52)):
        codes = encode_codes(vectors, kind)
        assert codes.data.nbytes + codes.weights.nbytes == 1_000 * size
        save_file(codes.arrays(), tmp_path / kind)
        again = Codes.from_arrays(load_file(tmp_path / kind))
        assert all(torch.equal(a, b) for a, b in zip(codes.arrays().values(), again.arrays().values(), strict=True))
    with pytest.raises(ValueError, match="expected data"):
        Codes.from_arrays({"data": torch.zeros(1, 1)})


def test_codes_of_constant_and_zero_rows():
    vectors = torch.zeros(50, 20)
    vectors[3] = 1
    for kind in ("int8", "binary"):
        scores, indices = topk_search(torch.ones(1, 20), vectors, 2, codes=encode_codes(vectors, kind))
        assert indices[0].tolist() == [3, 0]
        assert scores[0].tolist() == [20, 0]


def test_a_memory_map_is_searched_in_place(tmp_path: Path, recwarn: pytest.WarningsRecorder):
    np.save(tmp_path / "v.npy", random(0, 500, 40).numpy())
    mapped = np.load(tmp_path / "v.npy", mmap_mode="r")
    expect_best(random(1, 3, 40), torch.from_numpy(np.array(mapped)), 7, *topk_search(random(1, 3, 40), mapped, 7))
    assert encode_codes(mapped).data.shape == (500, 40)
    assert not [w for w in recwarn if "writable" in str(w.message)]


def test_vectors_that_are_not_contiguous():
    vectors = random(0, 40, 600)
    expect_best(random(1, 3, 40), vectors.T, 7, *topk_search(random(1, 3, 40), vectors.T, 7))
    expect_best(random(1, 3, 20), vectors[:, 5:25], 7, *topk_search(random(1, 3, 20), vectors[:, 5:25], 7))


@pytest.mark.parametrize(("batch", "n", "k", "columns"), [(0, 5, 3, 3), (2, 0, 3, 0), (0, 0, 1, 0), (2, 5, 9, 5)])
def test_nothing_to_search_and_more_wanted_than_there_is(batch, n, k, columns):
    scores, indices = topk_search(torch.ones(batch, 4), torch.ones(n, 4), k)
    assert scores.shape == indices.shape == (batch, columns)
    assert scores.dtype == torch.float32
    assert indices.dtype == torch.int64


@pytest.mark.parametrize("path", ["cpu", "reference"])
@pytest.mark.parametrize("where", [0, 1_234, 4_999])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_vector_that_is_not_finite_is_refused(path, where, value):
    vectors = random(0, 5_000, 30)
    vectors[where, 7] = value
    with pytest.raises(ValueError, match="NaN or infinite"):
        topk_search(random(1, 40, 30).abs() + 0.1, vectors, 5, path=path)
    for kind in ("int8", "binary"):
        with pytest.raises(ValueError, match="NaN or infinite"):
            encode_codes(vectors, kind)


def test_a_nan_that_came_after_the_codes_is_refused():
    vectors = random(0, 500, 30)
    codes = encode_codes(vectors)
    vectors[:, 3] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        topk_search(random(1, 2, 30), vectors, 5, codes=codes)


def test_bad_arguments_are_named():
    queries, vectors = torch.ones(2, 4), torch.ones(5, 4)
    for call, match in [
        (lambda: topk_search(queries, vectors[:, :3], 1), "shape"),
        (lambda: topk_search(queries[0], vectors, 1), "shape"),
        (lambda: topk_search(queries, vectors, 0), "k = 0"),
        (lambda: topk_search(queries, vectors, 1, oversample=0), "oversample = 0"),
        (lambda: topk_search(queries * torch.nan, vectors, 1), "query"),
        (lambda: topk_search(queries, vectors, 1, codes=encode_codes(vectors[:3])), "not those of vectors"),
        (lambda: topk_search(queries, vectors, 1, path="gpu"), "unknown path"),
        (lambda: encode_codes(vectors, "int4"), "unknown kind"),
        (lambda: encode_codes(vectors[0]), r"expected \[n, d\]"),
    ]:
        with pytest.raises(ValueError, match=match):
            call()
    with pytest.raises(TypeError, match="int64"):
        topk_search(queries, vectors.long(), 1)


def test_says_which_path_it_took():
    with taken() as paths:
        topk_search(torch.ones(1, 4), torch.ones(5, 4), 1)
    assert paths == {"topk_search": "cpu"}


def test_the_reference_keeps_float64():
    queries, vectors = random(0, 3, 10).double(), random(1, 20, 10).double()
    scores, indices = topk_search_reference(queries, vectors, 5)
    assert scores.dtype == torch.float64
    assert torch.equal(scores, (queries @ vectors.T).gather(1, indices))


@pytest.mark.slow
@pytest.mark.parametrize("features", ["+avx2,+fma,+f16c,+bmi,+bmi2,+popcnt",
                                      "+avx512f,+avx512bw,+avx512vl,+avx512dq,+avx2,+fma,+f16c"])
def test_older_processors(features, tmp_path):
    """numba compiles for what it is told this machine has; the tests of this file are run again so."""
    name = "haswell" if "avx512" not in features else "skylake-avx512"
    environment = {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features, "NUMBA_CACHE_DIR": str(tmp_path)}
    files = [__file__, str(Path(__file__).with_name("test_maxsim.py"))]
    done = subprocess.run([sys.executable, "-m", "pytest", "-x", *files], env={**os.environ, **environment},
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
