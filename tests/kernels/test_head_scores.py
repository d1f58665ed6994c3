"""head_scores against its definition in float64, and against attention_mass."""

import pytest
import torch
from regard.kernels.attention_mass import Reach, attention_mass
from regard.kernels.dispatch import taken
from regard.kernels.head_scores import head_scores, head_scores_reference

SHAPES = [
    # heads, KV heads, rows, columns, width
    (9, 3, 13, 200, 64), (8, 8, 7, 60, 96), (8, 1, 1, 150, 128), (2, 1, 20, 90, 256), (5, 1, 4, 70, 64),
    (14, 2, 3, 70, 64),
]


def problem(generator, heads, kv_heads, rows, columns, width, kind="plain"):
    def random(*shape):
        return torch.randn(*shape, generator=generator)

    inputs = {"query": random(heads, rows, width), "key": random(kv_heads, columns, width),
              "own_key": random(kv_heads, rows, width),
              "row_weights": random(rows)}
    reach = Reach(40, columns + torch.arange(rows), torch.arange(columns),
                  columns + torch.arange(rows)) if kind == "window" else None
    visible = torch.ones(rows, rows, dtype=torch.bool).tril()
    return inputs, {"visible": visible, "scale": width**-0.5, "softcap": 3.0 if kind == "softcap" else None,
                    "reach": reach}


def moved(inputs, how, device):
    reach = how["reach"]
    if reach is not None:
        reach = Reach(reach.window, reach.rows.to(device), reach.context.to(device), reach.own.to(device))
    return {name: tensor.to(device)
            for name, tensor in inputs.items()}, how | {"visible": how["visible"].to(device), "reach": reach}


def ragged(columns):
    """Spans of one token, of none, of everything, overlapping and out of order."""
    return [(0, 1), (1, columns // 2), (columns // 2, columns // 2), (columns // 3, columns), (columns, columns),
            (0, columns), (5, 6)]


@pytest.mark.parametrize("kind", ["plain", "softcap", "window"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_definition(generator, path, device, relative_error, shape, kind):
    inputs, how = problem(generator, *shape, kind)
    spans = ragged(shape[3])
    exact = {name: tensor.double() for name, tensor in inputs.items()}
    wanted = head_scores_reference(**exact, spans=spans, **how)
    terms = head_scores_reference(**(exact | {"row_weights": exact["row_weights"].abs()}), spans=spans, **how)
    here, there = moved(inputs, how, device)
    with taken() as paths:
        got = head_scores(**here, spans=spans, **there, path=path)
    assert paths == {"head_scores": path}
    assert got.dtype == torch.float32
    assert relative_error(got, wanted, terms) < (2e-5 if kind == "softcap" else 4e-6)
    assert got[:, 2].abs().max() == got[:, 4].abs().max() == 0
    for number in (0, 6):  # one token among many: its own scale, not that of the largest span
        assert relative_error(got[:, number], wanted[:, number], terms[:, number]) < 5e-5


def test_the_heads_add_up_to_the_attention_mass(generator, path, device):
    inputs, how = problem(generator, 6, 2, 5, 30, 64)
    here, there = moved(inputs, how, device)
    scores = head_scores(**here, spans=[(i, i + 1) for i in range(30)], **there, path=path)
    weights = here["row_weights"].expand(6, -1)
    torch.testing.assert_close(scores.sum(dim=0),
                               attention_mass(**(here | {"row_weights": weights}), **there, path=path),
                               atol=1e-6, rtol=1e-5)


def test_rows_without_weight_and_no_spans(generator, path, device, relative_error):
    inputs, how = problem(generator, 6, 2, 5, 80, 64)
    inputs["row_weights"][1:] = 0
    here, there = moved(inputs, how, device)
    assert head_scores(**here, spans=[], **there, path=path).shape == (6, 0)
    some = head_scores(**here, spans=[(3, 50)], **there, path=path)
    here["query"][:, 1:] = 5.0
    assert torch.equal(head_scores(**here, spans=[(3, 50)], **there, path=path), some)


def test_repeats_bit_for_bit(generator, path, device):
    inputs, how = problem(generator, 6, 2, 5, 150, 64)
    here, there = moved(inputs, how, device)
    first, second = (head_scores(**here, spans=ragged(150), **there, path=path) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("span", [(-1, 3), (4, 3), (0, 81)])
def test_a_span_outside_the_context_is_refused(generator, span):
    inputs, how = problem(generator, 6, 2, 5, 80, 64)
    with pytest.raises(ValueError, match=r"is not within 80 tokens"):
        head_scores(**inputs, spans=[(0, 5), span], **how)
