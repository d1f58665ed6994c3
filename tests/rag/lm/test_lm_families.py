"""Model families: tiny random models of each through the engine, against transformers' eager attention; and those it
must refuse.

The table is what the README's list is made of. A family that is neither in ``SERVED`` nor in ``REFUSED`` was not tried:
the probe decides.
"""

import json
import logging
import sys
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from regard.rag.errors import BudgetError, UnsupportedModel
from regard.rag.lm import LanguageModel, engine, probe
from regard.rag.lm.prefill import PrefillPass
from regard.rag.lm.suffixes import MassPass
from regard.rag.models import sharing
from regard.readers import Reader
from regard.rerankers import AttentionReranker
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

CONTEXT, SUFFIX, PREFIX = 40, 8, 12
IDS = torch.randint(3, 128, (CONTEXT + SUFFIX,), generator=torch.Generator().manual_seed(1)).tolist()
BLOCKS = [(PREFIX, 20), (20, 21), (21, 40)]

WINDOW = 20
SMALL = {
    "vocab_size": 128, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256, "initializer_range": 0.5,
    "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 0, "sliding_window": WINDOW, "original_max_position_embeddings": 256,
    # mixtures of experts
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1,
    "moe_k": 2,
    "moe_intermediate_size": 16, "moe_num_experts": 4, "shared_expert_intermediate_size": 16, "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1, "moe_layer_start_index": 1, "moe_num_shared_experts": 1, "num_shared_experts": 1,
    # latent attention, states
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8,
    "index_n_heads": 2,
    "index_head_dim": 8, "index_topk": 64, "linear_num_value_heads": 4, "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_expand": 2, "mamba_d_state": 8,
    "mamba_n_groups": 1,
    "vocab_size_per_layer_input": 128, "hidden_size_per_layer_input": 8, "global_head_dim": 8,
}
"""Settings of every configuration that knows them."""

SERVED = {
    "llama": {}, "mistral": {}, "qwen2": {}, "qwen3": {}, "qwen3_moe": {}, "gemma2": {}, "gemma3_text": {}, "phi3": {},
    "gpt2": {},
    "stablelm": {}, "nemotron": {}, "afmoe": {}, "jetmoe": {}, "smollm3": {},
    "apertus": {}, "arcee": {}, "aria_text": {}, "biogpt": {}, "bitnet": {}, "cohere": {}, "cohere2": {}, "ctrl": {},
    "cwm": {},
    "doge": {"sliding_window": None}, "dots1": {}, "ernie4_5": {}, "ernie4_5_moe": {}, "exaone4": {}, "exaone_moe": {},
    "flex_olmo": {},
    "gemma": {},
    "gemma3n_text": {"num_kv_shared_layers": 0, "layer_types": ["sliding_attention", "full_attention"],
                     "altup_num_inputs": 2,
                     "laurel_rank": 8},
    "glm": {}, "glm4": {}, "glm4_moe": {}, "gpt_bigcode": {}, "gpt_neox": {}, "granite": {}, "granitemoe": {},
    "granitemoeshared": {},
    "helium": {}, "hunyuan_v1_dense": {}, "hunyuan_v1_moe": {}, "hyperclovax": {}, "internlm3": {}, "jais2": {},
    "minimax_m2": {},
    "ministral": {}, "ministral3": {}, "mixtral": {}, "modernbert-decoder": {}, "nanochat": {}, "olmo": {}, "olmo2": {},
    "olmo3": {},
    "olmoe": {}, "opt": {}, "persimmon": {}, "phi": {}, "phimoe": {"sliding_window": 256}, "qwen2_moe": {},
    "seed_oss": {}, "solar_open": {},
    "starcoder2": {}, "vaultgemma": {},
}
"""Families whose attention can be looked into, by ``model_type``."""

DEFAULT = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3", "gpt2", "stablelm", "nemotron",
           "afmoe", "jetmoe",
           "qwen3_moe", "ministral3")
"""Tested in the default run; the others are slow together."""

LINEAR = r"it has layers of .*linear_attention"
LATENT = r"the keys of layer 0 are 4 x 16 wide, the values 4 x 8"
OTHERWISE = "does not run on torch's scaled dot product attention"
NOT_PLAIN = "is not plain in its configuration"
REFUSED = {
    "llama4_text": ("chunked_attention", {"attention_chunk_size": 16, "floor_scale": 16, "num_hidden_layers": 4,
                                          "no_rope_layers": [1, 1, 1, 0], "intermediate_size_mlp": 48}),
    "falcon_h1": ("layers of hybrid", {"mamba_d_ssm": 64}),
    "diffllama": ("more than one attention each, 4 in all", {}),
    "qwen3_next": (LINEAR, {"num_hidden_layers": 4}), "qwen3_5_text": (LINEAR, {"num_hidden_layers": 4}),
    "olmo_hybrid": (LINEAR, {"num_hidden_layers": 4}),
    "granitemoehybrid": (LINEAR, {"layer_types": ["mamba", "full_attention"]}),
    "bamba": (LINEAR, {"attn_layer_indices": [1]}), "nemotron_h": (LINEAR, {}), "minimax": (LINEAR, {}),
    "jamba": (LINEAR, {"num_hidden_layers": 4, "attn_layer_offset": 1, "attn_layer_period": 2,
                       "use_mamba_kernels": False}),
    "lfm2": ("layers of conv", {"layer_types": ["conv", "full_attention"]}),
    "lfm2_moe": ("layers of conv", {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1}),
    "deepseek_v2": (LATENT, {"num_key_value_heads": 4}), "deepseek_v3": (LATENT, {"num_key_value_heads": 4}),
    "minicpm3": (LATENT, {"num_key_value_heads": 4, "head_dim": 16}),
    "glm4_moe_lite": (LATENT, {"num_key_value_heads": 4}),
    "youtu": (LATENT, {"num_key_value_heads": 4}), "deepseek_v32": ("indexed_attention", {"num_key_value_heads": 4}),
    "gemma4_text": (NOT_PLAIN, {"layer_types": ["sliding_attention", "full_attention"], "global_head_dim": 16}),
    "bloom": (NOT_PLAIN, {}), "mpt": (NOT_PLAIN, {"d_model": 32, "n_heads": 4, "n_layers": 2}),
    "mamba": (NOT_PLAIN, {}),
    "mamba2": (NOT_PLAIN, {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1}),
    "falcon_mamba": (NOT_PLAIN, {}),
    "falcon": ("do not compute their attention by transformers' attention functions", {}),
    "gpt_oss": (OTHERWISE, {}), "granite_swa": (OTHERWISE, {}), "mimo_v2_flash": (OTHERWISE, {}),
    "xglm": (OTHERWISE, {}), "gptj": (OTHERWISE, {"rotary_dim": 4}), "codegen": (OTHERWISE, {"rotary_dim": 4}),
    "gpt_neo": (OTHERWISE, {"attention_types": [[["global", "local"], 1]], "num_layers": 2, "window_size": 16}),
    "gpt_neox_japanese": (OTHERWISE, {}),
}
"""Families that are refused, each with the reason that is given."""


def configuration(family: str, **settings):
    known = transformers.CONFIG_MAPPING[family]()
    own = {key: value for key, value in SMALL.items() if key in known.to_dict() or key in known.attribute_map}
    return transformers.CONFIG_MAPPING[family](**(own | settings))


def random_model(config):
    transformers.set_seed(0)
    return transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def saved(folder: Path, config) -> str:
    """A random model of ``config`` on disk, with a tokenizer of 128 words."""
    random_model(config).save_pretrained(folder)
    words = Tokenizer(WordLevel({f"w{i}": i for i in range(128)}, unk_token="w0"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w2", pad_token="w0").save_pretrained(folder)
    return str(folder)


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """Chunks that are shorter than a prompt, and no verdicts from before."""
    monkeypatch.setattr(engine, "PREFILL_CHUNK", 17)
    monkeypatch.setenv("REGARD_CACHE", str(tmp_path / "cache"))


def mass_by_transformers(folder: str, places: list[int] | None = None, mask: torch.Tensor | None = None) -> np.ndarray:
    """What the suffix's rows pay to the context, summed over layers and heads: float64 [context]."""
    eager = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    inputs = {} if places is None else {"position_ids": torch.tensor([places]), "attention_mask": mask}
    with torch.inference_mode():
        matrices = eager(torch.tensor([IDS]), output_attentions=True, use_cache=False, **inputs).attentions
    return sum(m[0, :, CONTEXT:, :CONTEXT].double().mean(dim=1).sum(dim=0) for m in matrices).numpy()


def block_mask() -> torch.Tensor:
    """float32 [1, 1, tokens, tokens], 0 where a token may look."""
    owner = torch.tensor([-1] * PREFIX + [b for b, (start, stop) in enumerate(BLOCKS) for _ in range(start, stop)]
                         + [-2] * SUFFIX)
    seen = (owner[:, None] == owner) | (owner == -1) | (owner[:, None] == -2)
    return torch.where(seen.tril(), 0.0, torch.finfo(torch.float32).min)[None, None]


def close(got: np.ndarray, wanted: np.ndarray) -> bool:
    return bool(np.linalg.norm(got - wanted) < 1e-4 * np.linalg.norm(wanted))


def written_by_transformers(folder: str, prompt: list[int], tokens: int) -> list[int]:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    written = model.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
                             max_new_tokens=tokens,
                             do_sample=False)[0, len(prompt):].tolist()
    return written[:written.index(2)] if 2 in written else written


def without_windows(folder: str) -> None:
    """transformers takes a mask of four dimensions as it is, for layers with a window too."""
    file = Path(folder, "config.json")
    config = json.loads(file.read_text())
    if config.get("sliding_window"):
        file.write_text(json.dumps(config | {"sliding_window": 10 ** 6}))


@pytest.mark.parametrize("family", [family if family in DEFAULT else pytest.param(family, marks=pytest.mark.slow)
                                    for family in SERVED])
def test_a_family_that_serves(family, tmp_path):
    """Its attention in chunks under the causal mask, and under the block mask; and what it writes."""
    name = saved(tmp_path / "model", configuration(family, **SERVED[family]))
    lm = LanguageModel.acquire(name, device="cpu", attention=True)
    assert close(lm.attention_mass(IDS[:CONTEXT], [IDS[CONTEXT:]]), mass_by_transformers(name))
    assert list(lm.generate(IDS[:CONTEXT], max_new_tokens=6).ids) == written_by_transformers(name, IDS[:CONTEXT], 6)
    lm.release()

    without_windows(name)
    lm = LanguageModel.acquire(name, device="cpu", attention=True)
    prefill = lm.prefill(IDS[:CONTEXT], blocks=BLOCKS, mask="block", positions="shared")
    places = [*prefill.plan.positions, *range(prefill.plan.after, prefill.plan.after + SUFFIX)]
    assert close(lm.attention_mass(prefill, [IDS[CONTEXT:]]), mass_by_transformers(name, places, block_mask()))
    lm.release()


@pytest.mark.parametrize("family", REFUSED)
def test_a_family_that_is_refused(family, tmp_path):
    """By name, with the reason, before any work; and again from what is kept."""
    reason, settings = REFUSED[family]
    name = saved(tmp_path / "model", configuration(family, **settings))
    for _ in range(2):
        with pytest.raises(UnsupportedModel, match=reason) as caught:
            LanguageModel.acquire(name, device="cpu", attention=True)
        assert family.split("_")[0] in f"{caught.value.what} {caught.value.where}".lower()


@pytest.mark.parametrize("stage", [partial(AttentionReranker), partial(Reader, mask="block")])
def test_a_stage_says_so_when_it_opens(stage, tmp_path):
    name = saved(tmp_path / "model", configuration("diffllama"))
    with pytest.raises(UnsupportedModel, match="more than one attention"), stage(name, device="cpu").opened():
        raise AssertionError
    assert not any(name in map(str, key) for key in sharing._pool if isinstance(key, tuple))


def test_what_cannot_be_looked_into_may_still_be_read_with(tmp_path):
    with Reader(saved(tmp_path / "model", configuration("diffllama")), device="cpu").opened():
        pass


# -- the probe ---------------------------------------------------------------------


def probed(config, tmp_path) -> LanguageModel:
    return LanguageModel.acquire(saved(tmp_path / "model", config), device="cpu")


@pytest.mark.parametrize("family", ["doge", "phimoe"])
def test_a_window_that_is_in_the_mask_only_is_found(family, tmp_path):
    """Their layers do not hand it on. A window as long as the longest prompt is none."""
    with pytest.raises(UnsupportedModel, match="the last hidden states differ by"):
        LanguageModel.acquire(saved(tmp_path / "model", configuration(family)), device="cpu", attention=True)


@pytest.mark.parametrize(("family", "types"), [("llama4_text", {"chunked_attention"}), ("falcon_h1", {"hybrid"})])
def test_what_no_name_tells_the_numbers_do(family, types, tmp_path, monkeypatch):
    """Masks in chunks, and states that run along the tokens: found by the last hidden states as well."""
    monkeypatch.setattr(probe, "_PLAIN_LAYERS", probe._PLAIN_LAYERS | types)
    lm = probed(configuration(family, **REFUSED[family][1]), tmp_path)
    with pytest.raises(UnsupportedModel,
                       match=r"the last hidden states differ by [1-9]\d*\.\d+% from transformers' own"):
        lm.attention_mass(IDS[:CONTEXT], [IDS[CONTEXT:]])
    lm.release()


def wider(real, self, layer, query, key, value, how):
    return real(self, layer, query, key, value, replace(how, window=how.window and how.window + 1))


def scaled(real, self, layer, query, key, value, how):
    return real(self, layer, query, key, value, replace(how, scale=how.scale * 1.05))


def leaky(real, self, layer, query, key, value, how):
    if len(self.parts) > 1:
        self.parts = [(self.parts[0][0], self.parts[-1][1])]
    return real(self, layer, query, key, value, how)


def faulty(fault, real):
    return lambda self, *args: fault(real, self, *args)


@pytest.mark.parametrize(("fault", "pieces"),
                         [(wider, (PrefillPass, MassPass)), (wider, (MassPass,)), (scaled, (MassPass,)),
                                               (leaky, (PrefillPass,))])
def test_a_fault_of_the_engine_is_found(fault, pieces, tmp_path, monkeypatch):
    lm = probed(configuration("mistral"), tmp_path)
    for piece in pieces:
        monkeypatch.setattr(piece, "attend", faulty(fault, piece.attend))
    with pytest.raises(UnsupportedModel, match="differ by"):
        lm.prefill(IDS)
    lm.release()


def test_a_verdict_is_kept_and_what_it_depends_on_asks_for_another(tmp_path, monkeypatch, caplog):
    name = saved(tmp_path / "model", configuration("qwen2"))
    examined = []
    real = probe.examine
    monkeypatch.setattr(probe, "examine", lambda *args: examined.append(1) or real(*args))

    def probes() -> int:
        examined.clear()
        LanguageModel.acquire(name, device="cpu", attention=True).release()
        return len(examined)

    assert [probes(), probes()] == [1, 0]
    (kept,) = (tmp_path / "cache" / "probes").iterdir()
    assert json.loads(kept.read_text())["reason"] == ""
    for damage in ("", "{", "[]", '{"difference": 1}'):
        kept.write_text(damage)
        with caplog.at_level(logging.WARNING):
            assert [probes(), probes()] == [1, 0]
        assert str(kept) in caplog.text
    monkeypatch.setattr(probe, "ENGINE", probe.ENGINE + 1)
    assert [probes(), probes()] == [1, 0]
    monkeypatch.setattr(sys.modules["transformers"], "__version__", "6.0")
    assert [probes(), probes()] == [1, 0]
    Path(name, "config.json").write_text(Path(name, "config.json").read_text().replace("1e-06", "1e-05"))
    assert [probes(), probes()] == [1, 0]
    assert len(list((tmp_path / "cache" / "probes").iterdir())) == 4


def test_no_memory_is_no_verdict(tmp_path, monkeypatch):
    lm = probed(configuration("qwen2"), tmp_path)
    with monkeypatch.context() as tight:
        tight.setattr(probe, "_by_engine", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("none left")))
        with pytest.raises(torch.OutOfMemoryError):
            lm.prefill(IDS)
    assert not (tmp_path / "cache" / "probes").exists()
    assert lm.prefill(IDS).complete
    lm.release()


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("REGARD_CACHE", str(tmp_path / "file"))
    lm = probed(configuration("qwen2"), tmp_path)
    with caplog.at_level(logging.WARNING):
        assert lm.prefill(IDS).complete
    assert "cannot be kept" in caplog.text
    lm.release()


def test_many_write_one_verdict(tmp_path):
    path = tmp_path / "probes" / "one.json"
    verdicts = [probe.ProbeVerdict(f"reason {i}" * 1000, i) for i in range(8)]
    threads = [threading.Thread(target=lambda v=v: [probe._keep(v, path) for _ in range(20)]) for v in verdicts]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert not path.exists() or probe._read(path) in verdicts
    assert [file.name for file in path.parent.iterdir()] == ["one.json"]


def test_a_model_writes_the_same_while_it_is_probed(tmp_path, monkeypatch):
    """The probe narrows the model's windows for a while: what is written meanwhile has to wait."""
    lm = probed(configuration("mistral"), tmp_path)
    wanted = lm.generate(IDS[:CONTEXT], max_new_tokens=8)
    found = []
    writer = threading.Thread(target=lambda: found.append(lm.generate(IDS[:CONTEXT], max_new_tokens=8)))
    real = probe._by_engine

    def slow(*args):
        writer.start()
        writer.join(timeout=0.3)
        return real(*args)

    monkeypatch.setattr(probe, "_by_engine", slow)
    assert lm.prefill(IDS).complete
    writer.join()
    assert found == [wanted]
    assert lm.sliding_window == WINDOW
    lm.release()


# -- longrope ----------------------------------------------------------------------

BOUNDARY = 64
LONGROPE = {"original_max_position_embeddings": BOUNDARY, "sliding_window": None, "rope_parameters": {
    "rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": BOUNDARY,
    "short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [2.0, 3.0, 4.0, 5.0]}}
LONG = torch.randint(3, 128, (140,), generator=torch.Generator().manual_seed(3)).tolist()


@pytest.fixture
def longrope(tmp_path):
    lm = probed(configuration("phi3", **LONGROPE), tmp_path)
    yield lm
    lm.release()


@pytest.mark.parametrize("prompt", [120, 40, 56, BOUNDARY - 1, BOUNDARY, BOUNDARY + 1])
def test_longrope_writes_what_transformers_writes(longrope, prompt):
    """In prompts beyond the boundary, and across it: then all before is turned anew, as in transformers."""
    assert list(longrope.generate(LONG[:prompt], max_new_tokens=16).ids) == written_by_transformers(longrope.info.name,
                                                                                                    LONG[:prompt], 16)


@pytest.mark.parametrize("context", [40, 60, 100])
def test_longrope_looks_at_the_whole_prompts_angles(longrope, context, monkeypatch):
    monkeypatch.setitem(globals(), "IDS", LONG[:context + SUFFIX])
    monkeypatch.setitem(globals(), "CONTEXT", context)
    assert close(longrope.attention_mass(LONG[:context], [LONG[context:context + SUFFIX]]),
                 mass_by_transformers(longrope.info.name))


def test_longrope_does_not_mix_angles(longrope):
    context = longrope.prefill(LONG[:60])
    assert longrope.attention_mass(context, [LONG[60:BOUNDARY]]).shape == (60,)
    with pytest.raises(BudgetError, match="prefilled for at most 64 positions cannot go on to 65"):
        longrope.attention_mass(context, [LONG[60:BOUNDARY + 1]])
    with pytest.raises(BudgetError, match="cannot go on to 70"):
        longrope.generate(LONG[60:62], context=context, max_new_tokens=8)
    assert list(longrope.generate(LONG[60:62], context=context, max_new_tokens=2).ids) == list(
        longrope.generate(LONG[:62], max_new_tokens=2).ids)
    longer = longrope.prefill(LONG[:100])
    assert list(longrope.generate(LONG[100:102], context=longer, max_new_tokens=8).ids) == list(
        longrope.generate(LONG[:102], max_new_tokens=8).ids)


def test_kept_blocks_are_still_turned_for_the_prompt_they_were_in(longrope):
    blocks = [(10, 40), (40, 110)]
    kept = longrope.prefill(LONG[:110], blocks=blocks, mask="block", positions="shared").keep([0])
    with pytest.raises(BudgetError, match="cannot go on to 50"):
        longrope.attention_mass(kept, [LONG[:10]])


def test_states_that_do_not_go_on_from_chunk_to_chunk_run_at_once(tmp_path):
    """Jamba's: a chunk after the first would start from nothing."""
    lm = probed(configuration("jamba", **REFUSED["jamba"][1]), tmp_path)
    assert list(lm.generate(LONG[:50], max_new_tokens=8).ids) == written_by_transformers(lm.info.name, LONG[:50], 8)
    lm.release()
