"""The engine: attention mass against transformers' own attention matrices, generation, windows, sharing, loading."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from regard.rag.dag.trace import Running, StageTrace, tracing
from regard.rag.errors import BudgetError, ConfigError, ModelNotFound, UnsupportedModel
from regard.rag.lm import LanguageModel, describe, engine, gguf
from regard.rag.models import resolve, sharing

from ...lms import random_lm

WINDOW = 256
CONTEXT = list(range(1000, 1120))
SUFFIXES = [[7, 2000, 2001, 2002, 9], [7, 3000, 9]]


FAMILIES = {
    "Llama": {}, "Qwen2": {}, "Qwen3": {}, "Mistral": {"sliding_window": 70},
    "Gemma2": {"query_pre_attn_scalar": 16, "sliding_window": 70, "attn_logit_softcapping": 2.0},
    "Gemma3Text": {"query_pre_attn_scalar": 24, "sliding_window": 70,
                   "layer_types": ["sliding_attention", "full_attention"] * 2},
}


@pytest.fixture(scope="module", params=FAMILIES)
def tiny(request, tmp_path_factory):
    """Random models of several families: biases, QK norms, soft caps, sliding windows; all with grouped-query
    attention."""
    name = random_lm(tmp_path_factory.mktemp(request.param), request.param, **FAMILIES[request.param])
    lm = LanguageModel.acquire(name, device="cpu")
    yield lm
    lm.release()


@pytest.fixture(scope="module")
def lm():
    lm = LanguageModel.acquire("smollm2", device="cpu")
    yield lm
    lm.release()


def matrices(lm: LanguageModel, ids: list[int]) -> torch.Tensor:
    """float64 [layers, heads, rows, keys] from transformers' eager attention, one causal pass over ``ids``."""
    eager = transformers.AutoModelForCausalLM.from_pretrained(
        lm.info.name if Path(lm.info.name).exists() else gguf.converted(resolve(lm.info.name)),
        attn_implementation="eager", dtype=torch.float32)
    with torch.inference_mode():
        return torch.cat(eager(torch.tensor([ids]), output_attentions=True).attentions).double()


def wanted_mass(lm, context, suffixes, heads, weights, query_rows) -> torch.Tensor:
    total = torch.zeros(len(context), dtype=torch.float64)
    for suffix, weight, (start, stop) in zip(suffixes, weights, query_rows, strict=True):
        rows = matrices(lm, [*context, *suffix])[:, :, len(context):, :len(context)][:, :, start:stop].mean(dim=2)
        total += weight * sum(rows[layer, head] for layer, head in heads)
    return total


@pytest.mark.parametrize("case", ["all heads", "some heads", "calibrated", "some rows"])
def test_mass_is_that_of_the_eager_attention_matrices(tiny, case):
    every = [(layer, head) for layer in range(4) for head in range(4)]
    heads = [(2, 3), (0, 1), (2, 0)] if case == "some heads" else None
    weights = [1.0, -1.0] if case == "calibrated" else None
    rows = [(1, 3), (2, 3)] if case == "some rows" else None
    got = tiny.attention_mass(CONTEXT, SUFFIXES, heads=heads, weights=weights, query_rows=rows)
    wanted = wanted_mass(tiny, CONTEXT, SUFFIXES, heads or every, weights or [1, 1], rows or [(0, 5), (0, 3)])
    assert got.dtype == np.float32
    assert np.isfinite(got).all()
    assert np.linalg.norm(got - wanted.numpy()) < 1e-5 * np.linalg.norm(wanted.numpy())


BLOCKS = [(30, 60), (60, 61), (61, 61), (61, 100), (100, 120)]


def block_masks(lm: LanguageModel, suffix: int, positions: list[int]) -> dict[str, torch.Tensor]:
    """float32 [1, 1, tokens, tokens], 0 where a token may look: the block mask, and the same within the sliding
    window."""
    owner = [-1] * 30 + [b for b, (start, stop) in enumerate(BLOCKS) for _ in range(start, stop)] + [-2] * suffix
    mine, at, place = torch.tensor(owner), torch.arange(len(owner)), torch.tensor(positions)
    same = (mine[:, None] == mine) | (mine == -1) | (mine[:, None] == -2)
    full = same & (at[:, None] >= at)
    window = lm.sliding_window or 10**6
    near = full & (place[:, None] - place < window)
    return {name: torch.where(seen, 0.0, -torch.inf)[None, None] for name, seen in
            {"full_attention": full, "sliding_attention": near}.items()}


@pytest.mark.parametrize("gap", [0, 25])
@pytest.mark.parametrize("positions", ["shared", "distinct"])
def test_mass_under_the_block_mask_is_that_of_the_masked_eager_model(tiny, positions, gap):
    suffix = SUFFIXES[0]
    place = list(range(120)) if positions == "distinct" else [*range(30),
                                                              *(30 + i for a, b in BLOCKS for i in range(b - a))]
    after = gap + (120 if positions == "distinct" else 30 + 39)
    place += range(after, after + len(suffix))
    masks = block_masks(tiny, len(suffix), place)
    eager = transformers.AutoModelForCausalLM.from_pretrained(tiny.info.name, attn_implementation="eager",
                                                              dtype=torch.float32)
    mask = masks if getattr(eager.config, "layer_types", None) and "Gemma" in type(eager).__name__ else (
        masks["sliding_attention" if tiny.sliding_window else "full_attention"])
    with torch.inference_mode():
        matrix = torch.cat(eager(torch.tensor([[*CONTEXT, *suffix]]), attention_mask=mask,
                                 position_ids=torch.tensor([place]),
                                 output_attentions=True).attentions).double()
    wanted = matrix[:, :, 120:, :120].mean(dim=2).sum(dim=(0, 1)).numpy()
    settings = {"mask": "block", "positions": positions, "blocks": BLOCKS, "after": after if gap else None}
    got = tiny.attention_mass(CONTEXT, [suffix], **settings)
    assert np.linalg.norm(got - wanted) < 1e-5 * np.linalg.norm(wanted)
    spans = [(0, 5), *BLOCKS]
    by_head = tiny.head_scores(CONTEXT, [suffix], spans, **settings)
    wanted_by_head = torch.stack([matrix[:, :, 120:, a:b].mean(dim=2).sum(dim=-1) for a, b in spans], dim=-1).numpy()
    assert by_head.shape == (4, 4, len(spans))
    np.testing.assert_allclose(by_head, wanted_by_head, atol=1e-5)


def test_permuting_blocks_at_shared_positions_moves_their_mass_along(tiny):
    random = np.random.default_rng()
    settings = {"mask": "block", "positions": "shared", "weights": [1, -1]}
    mass = tiny.attention_mass(CONTEXT, SUFFIXES, blocks=BLOCKS, **settings)
    for _ in range(3):
        order = random.permutation(len(BLOCKS))
        context, blocks = CONTEXT[:30], []
        for b in order:
            blocks.append((len(context), len(context) + BLOCKS[b][1] - BLOCKS[b][0]))
            context = context + CONTEXT[slice(*BLOCKS[b])]
        moved = tiny.attention_mass(context, SUFFIXES, blocks=blocks, **settings)
        for b, (start, stop) in zip(order, blocks, strict=True):
            np.testing.assert_allclose(moved[start:stop], mass[slice(*BLOCKS[b])], atol=2e-5)


def test_looking_at_a_prefill_is_looking_at_its_tokens(tiny):
    settings = {"mask": "block", "positions": "shared", "blocks": BLOCKS}
    heads = [(1, 0), (2, 3)]
    fresh = tiny.attention_mass(CONTEXT, SUFFIXES, heads=heads, **settings)
    prefill = tiny.prefill(CONTEXT, last=2, **settings)
    assert (prefill.layers, prefill.complete) == (3, False)
    np.testing.assert_array_equal(tiny.attention_mass(prefill, SUFFIXES, heads=heads), fresh)
    with pytest.raises(ConfigError, match="layer 3 is asked for"):
        tiny.attention_mass(prefill, SUFFIXES)
    with pytest.raises(ConfigError, match="cannot be continued from"):
        tiny.generate([5], context=prefill, max_new_tokens=2)


def test_blocks_that_are_kept_are_a_prefill_of_their_own(tiny):
    settings = {"mask": "block", "positions": "shared"}
    kept = tiny.prefill(CONTEXT, blocks=BLOCKS, **settings).keep([3, 1])
    context = [*CONTEXT[:30], *CONTEXT[61:100], CONTEXT[60]]
    fresh = tiny.prefill(context, blocks=[(30, 69), (69, 70)], **settings)
    assert kept.plan == fresh.plan
    for mine, theirs in zip((*kept.keys, *kept.values), (*fresh.keys, *fresh.values), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)
    with pytest.raises(ConfigError, match="cannot be dropped"):
        tiny.prefill(CONTEXT, blocks=BLOCKS, mask="block").keep([1])


@pytest.mark.parametrize("arguments", [
    {"positions": "shared"}, {"mask": "block", "blocks": [(30, 60), (61, 120)]},
    {"mask": "block", "blocks": [(30, 60)]},
    {"mask": "block", "blocks": [(30, 70), (60, 120)]},
])
def test_impossible_layouts(tiny, arguments):
    with pytest.raises(ConfigError):
        tiny.attention_mass(CONTEXT, SUFFIXES, **arguments)


def test_out_of_memory_splits_and_says_so(tiny, monkeypatch):
    settings = {"mask": "block", "positions": "shared", "blocks": [(30 + 30 * i, 60 + 30 * i) for i in range(3)]}
    wanted = tiny.attention_mass(CONTEXT, SUFFIXES, **settings)
    look = LanguageModel._look

    def tight(self, ids, positions, looking):
        if len(ids) > 64:
            raise torch.OutOfMemoryError("CUDA out of memory")
        look(self, ids, positions, looking)

    monkeypatch.setattr(LanguageModel, "_look", tight)
    entry = StageTrace("s", "S")
    with tracing(Running(entry)):
        np.testing.assert_allclose(tiny.attention_mass(CONTEXT, SUFFIXES, **settings), wanted, atol=2e-5)
    assert entry.notes["splits"] == 4  # 1024, 512, 256, 128 tokens at once did not go
    monkeypatch.setattr(LanguageModel, "_look", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("none left")))
    with pytest.raises(BudgetError, match="memory"):
        tiny.attention_mass(CONTEXT, SUFFIXES, **settings)


@pytest.mark.parametrize("suffixes",
                         [[[7, 8, 9], [7, 8, 9]], [[7], [7, 8]], [[7, 8], [7, 9], [7, 8, 5]], [[3, 4], [5]]])
def test_what_suffixes_have_in_common_runs_once(tiny, suffixes):
    ran: list[int] = []
    hook = tiny._model.base_model.layers[0].register_forward_pre_hook(lambda _, args: ran.append(args[0].shape[1]))
    together = tiny.attention_mass(CONTEXT, suffixes, weights=[1.0, -0.5, 0.25][:len(suffixes)])
    hook.remove()
    apart = sum(w * tiny.attention_mass(CONTEXT, [s]) for w, s in zip([1.0, -0.5, 0.25], suffixes, strict=False))
    np.testing.assert_allclose(together, apart, atol=2e-5)
    assert ran[-1] < sum(map(len, suffixes)) or len({s[0] for s in suffixes}) == len(suffixes)


def test_mass_of_smollm2_on_a_short_prompt(lm):
    context = lm.tokens("Here are some paragraphs:\n[1] A flea can live up to a year.\n[2] Cats sleep all day.\n")
    suffix = lm.tokens("Query: how long is the life cycle of a flea")
    every = [(layer, head) for layer in range(lm.info.layers) for head in range(lm.info.heads)]
    wanted = wanted_mass(lm, context, [suffix], every, [1], [(0, len(suffix))])
    np.testing.assert_allclose(lm.attention_mass(context,
                                                 [suffix]), wanted, atol=2e-4)  # of 270 heads; single values reach 200


def test_a_row_does_not_see_its_future(tiny):
    """The trap of an attention function without a registered mask: what follows a row changes its attention."""
    longer = [SUFFIXES[0], [*SUFFIXES[1], 4000, 4001]]
    first = tiny.attention_mass(CONTEXT, longer, query_rows=[(0, 5), (0, 3)])
    np.testing.assert_allclose(first, tiny.attention_mass(CONTEXT, SUFFIXES), atol=1e-5)


def test_suffixes_do_not_see_each_other(tiny):
    together = tiny.attention_mass(CONTEXT, SUFFIXES, weights=[1, -1])
    apart = tiny.attention_mass(CONTEXT, SUFFIXES[:1]) - tiny.attention_mass(CONTEXT, SUFFIXES[1:])
    np.testing.assert_allclose(together, apart, atol=1e-5)


def test_prefill_in_chunks_changes_nothing(tiny, monkeypatch):
    whole = tiny.attention_mass(CONTEXT, SUFFIXES)
    text = tiny.generate(CONTEXT, max_new_tokens=8).ids
    monkeypatch.setattr(engine, "PREFILL_CHUNK", 17)
    np.testing.assert_allclose(tiny.attention_mass(CONTEXT, SUFFIXES), whole, atol=1e-5)
    assert tiny.generate(CONTEXT, max_new_tokens=8).ids == text


def test_mass_repeats_bit_for_bit_in_any_thread(tiny):
    first = tiny.attention_mass(CONTEXT, SUFFIXES)
    text = tiny.generate(CONTEXT[:20], max_new_tokens=12)
    found: list[object] = []
    work = [lambda: tiny.attention_mass(CONTEXT, SUFFIXES), lambda: tiny.generate(CONTEXT[:20], max_new_tokens=12)] * 3
    threads = [threading.Thread(target=lambda task=task: found.append(task())) for task in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    masses = [m for m in found if isinstance(m, np.ndarray)]
    assert len(masses) == 3
    assert all(np.array_equal(m, first) for m in masses)
    assert [g for g in found if not isinstance(g, np.ndarray)] == [text] * 3


def test_nothing_above_the_deepest_head_runs(tiny):
    ran: set[int] = set()
    hooks = [layer.register_forward_pre_hook(lambda *_, i=i: ran.add(i))
             for i, layer in enumerate(tiny._model.base_model.layers)]
    tiny.attention_mass(CONTEXT, SUFFIXES, heads=[(1, 0), (0, 3)])
    for hook in hooks:
        hook.remove()
    assert ran == {0, 1}


def test_the_head_runs_on_one_position_only(tiny):
    rows: list[int] = []
    hook = tiny._model.lm_head.register_forward_pre_hook(lambda _, args: rows.append(args[0].shape[1]))
    tiny.attention_mass(CONTEXT, SUFFIXES)
    assert rows == []
    tiny.generate(CONTEXT, max_new_tokens=3)
    hook.remove()
    assert set(rows) == {1}


def test_an_empty_context_has_no_mass(tiny):
    assert tiny.attention_mass([], SUFFIXES).shape == (0,)


@pytest.mark.parametrize("arguments", [
    {"suffixes": []}, {"suffixes": [[]]}, {"weights": [1.0]}, {"query_rows": [(0, 1)]},
    {"query_rows": [(0, 6), (0, 1)]},
    {"query_rows": [(2, 2), (0, 1)]}, {"heads": []}, {"heads": [(4, 0)]}, {"heads": [(0, -1)]}, {"after": 119},
])
def test_impossible_arguments_of_attention_mass(tiny, arguments):
    with pytest.raises(ConfigError):
        tiny.attention_mass(CONTEXT, **({"suffixes": SUFFIXES} | arguments))


def test_what_does_not_fit_the_window(tiny):
    fits = [5] * (WINDOW - 5)
    assert tiny.attention_mass(fits, SUFFIXES).shape == (WINDOW - 5,)
    with pytest.raises(BudgetError, match="do not fit the window of 256"):
        tiny.attention_mass([*fits, 5], SUFFIXES)
    with pytest.raises(BudgetError, match="do not fit the window of 256"):
        tiny.attention_mass(CONTEXT, SUFFIXES, after=WINDOW - 4)
    assert tiny.generate(fits, max_new_tokens=5).prompt_tokens == WINDOW - 5
    with pytest.raises(BudgetError, match="do not fit the window of 256"):
        tiny.generate(fits, max_new_tokens=6)


def test_generation_is_that_of_transformers(tiny):
    prompt = torch.tensor([CONTEXT[:30]])
    reference = transformers.AutoModelForCausalLM.from_pretrained(tiny.info.name, dtype=torch.float32)
    wanted = reference.generate(prompt, max_new_tokens=20, do_sample=False,
                                attention_mask=torch.ones_like(prompt))[0, 30:].tolist()
    assert list(tiny.generate(CONTEXT[:30], max_new_tokens=20).ids) == [token for token in wanted if token != 2]


def test_smollm2_answers_repeats_itself_and_stops(lm):
    frame = lm.frame("Answer with one short sentence.")
    prompt = [*frame.prefix, *lm.tokens("What is the capital of France?"), *frame.suffix]
    pieces: list[str] = []
    first = lm.generate(prompt, max_new_tokens=40, on_text=pieces.append)
    assert "Paris" in first.text
    assert "".join(pieces) == first.text
    assert first.finish == "stop"
    assert first.tokens == len(first.ids) < 40
    assert lm.generate(prompt, max_new_tokens=40) == first
    sampled = [lm.generate(prompt, max_new_tokens=6, temperature=1.0, seed=seed).ids for seed in (3, 3, 4)]
    assert sampled[0] == sampled[1] != sampled[2]


@pytest.mark.parametrize("arguments",
                         [{"prompt": []}, {"prompt": [5], "max_new_tokens": 0}, {"prompt": [5], "temperature": -1.0}])
def test_impossible_arguments_of_generate(lm, arguments):
    with pytest.raises(ConfigError):
        lm.generate(**arguments)


def test_description_and_sharing(lm):
    info = describe("smollm2")
    assert (info.window, info.layers, info.heads, info.kv_heads, info.head_dim) == (8192, 30, 9, 3, 64)
    assert lm.info == info
    again = LanguageModel.acquire("smollm2", device="cpu")
    assert again is lm
    again.release()
    assert ("language-model", resolve("smollm2").path, "cpu") in sharing._pool


@pytest.mark.parametrize("family", ["GptOss", "Bloom"])
def test_a_model_with_another_attention_is_refused_by_name(tmp_path, family):
    """Attention sinks, and positions as a bias: a plain softmax over the keys would be wrong."""
    experts = {"num_local_experts": 2, "num_experts_per_tok": 1, "layer_types": ["full_attention"] * 4}
    name = random_lm(tmp_path, family, **(experts if family == "GptOss" else {}))
    lm = LanguageModel.acquire(name, device="cpu")
    with pytest.raises(UnsupportedModel, match="cannot be looked into") as caught:
        lm.attention_mass(CONTEXT, SUFFIXES)
    assert family in str(caught.value)
    assert lm.generate(CONTEXT, max_new_tokens=2).tokens <= 2
    lm.release()


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(ModelNotFound, match=r"no config\.json") as caught:
        describe(str(tmp_path))
    assert "embedded model" in caught.value.hint
    with pytest.raises(ModelNotFound):
        LanguageModel.acquire(str(tmp_path))


def test_an_encoder_is_no_language_model(tmp_path):
    with pytest.raises(UnsupportedModel, match="sentence-transformers"):
        describe("minilm")
    transformers.BertModel(transformers.BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                                                   intermediate_size=16,
                                                   vocab_size=50)).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModel, match="lacks weights"):
        LanguageModel.acquire(str(tmp_path))


def test_a_model_that_brings_its_own_code_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}')
    (tmp_path / "mine.py").write_text("raise SystemExit('this code was run')")
    with pytest.raises(UnsupportedModel, match="code of its own"):
        describe(str(tmp_path))


def test_pickled_weights_are_not_loaded(tmp_path):
    name = random_lm(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UnsupportedModel, match="pickled weights") as refused:
        LanguageModel.acquire(name)
    assert "safetensors" in str(refused.value)
