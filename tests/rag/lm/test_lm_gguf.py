"""The conversion of GGUF files: the same model as the direct load, whole or not at all, once."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from regard.kernels.linear import accelerate
from regard.rag.errors import StorageError, UnsupportedModel
from regard.rag.lm import gguf
from regard.rag.lm.loading import model_and_tokenizer
from regard.rag.models import resolve

LAYERS, WIDTH, HEADS, KV_HEADS = 2, 64, 4, 2
CONVERT = "import sys; from regard.rag.models import resolve; from regard.rag.lm import gguf; gguf.converted(resolve(sys.argv[1]))"  # noqa: E501


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """A GGUF file of a two-layer Llama with random weights, some of them quantised, and a byte-level vocabulary."""
    import numpy as np
    from gguf import GGMLQuantizationType, GGUFWriter, quants
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    random = np.random.default_rng(0)
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *bytes_to_unicode().values(), "he", "ll"]
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(2 * WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * (len(tokens) - 3))
    writer.add_token_merges(["h e", "l l"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)

    def add(name: str, *shape: int) -> None:
        values = (random.normal(size=shape) / np.sqrt(shape[-1])).astype(np.float32)
        if len(shape) == 1:
            writer.add_tensor(name, 1 + values)
        else:
            blocks = quants.quantize(values, GGMLQuantizationType.Q8_0)
            writer.add_tensor(name, blocks, raw_dtype=GGMLQuantizationType.Q8_0)

    kv_width = WIDTH // HEADS * KV_HEADS
    add("token_embd.weight", len(tokens), WIDTH)
    add("output_norm.weight", WIDTH)
    for layer in range(LAYERS):
        for name, shape in {
            "attn_q": (WIDTH, WIDTH), "attn_k": (kv_width, WIDTH), "attn_v": (kv_width, WIDTH),
            "attn_output": (WIDTH, WIDTH),
            "ffn_gate": (2 * WIDTH, WIDTH), "ffn_up": (2 * WIDTH, WIDTH), "ffn_down": (WIDTH, 2 * WIDTH),
            "attn_norm": (WIDTH,), "ffn_norm": (WIDTH,),
        }.items():
            add(f"blk.{layer}.{name}.weight", *shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("REGARD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def direct_and_converted_logits(path: Path, text: str):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    direct = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
    accelerate(direct)  # as the engine does
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    converted, saved_tokenizer = model_and_tokenizer(resolve(str(path)), "cpu")
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
    assert torch.equal(ids, saved_tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids)
    with torch.inference_mode():
        return direct(ids).logits, converted(ids).logits, saved_tokenizer


def test_the_converted_model_is_the_direct_one(tiny, cache):
    import torch

    direct, converted, tokenizer = direct_and_converted_logits(tiny, "hello, hell")
    assert direct.shape[1] == 7  # he, ll, o, comma, space, he, ll
    assert torch.equal(direct, converted)
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")


@pytest.mark.slow
def test_the_converted_smollm2_is_the_direct_one():
    """And it keeps the chat template; the second load, from the cache, takes about a second."""
    import torch

    path = Path(resolve("smollm2").path)
    direct, converted, tokenizer = direct_and_converted_logits(path,
                                                               "A flea can live up to a year, but its general lifespan")
    assert torch.equal(direct, converted)
    assert "<|im_start|>" in tokenizer.chat_template
    start = time.perf_counter()
    model_and_tokenizer(resolve("smollm2"), "cpu")
    assert time.perf_counter() - start < 6  # 0.7 s on an idle machine


def test_converts_once(tiny, cache, capfd, monkeypatch):
    files = resolve(str(tiny))
    assert not gguf.is_converted(files)
    folder = gguf.converted(files)
    told = capfd.readouterr()
    assert "Converting" in told.err
    assert "%|" not in told.err  # no progress bar of transformers
    assert sorted(p.name for p in folder.parent.iterdir()) == [folder.name]
    monkeypatch.setattr(gguf, "_convert", None)
    assert gguf.converted(files) == folder
    assert capfd.readouterr().err == ""


def test_a_model_that_lost_the_race_is_thrown_away(tiny, cache):
    folder = gguf.converted(resolve(str(tiny)))
    late = folder.parent / ".making-late"
    late.mkdir()
    (late / "config.json").write_text("late")
    gguf._publish(late, folder)
    assert (folder / "config.json").read_text() != "late"


@pytest.mark.slow
def test_two_processes_convert_at_once_and_one_is_killed(tiny, cache):
    """Three start together, one is killed on the way: the folder is whole, and nothing else remains but what the kill
    left."""
    command = [sys.executable, "-c", CONVERT, str(tiny)]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(3)]
    deadline = time.monotonic() + 60
    while not list(cache.glob("gguf/.making-*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    processes[0].send_signal(signal.SIGKILL)
    assert [p.wait(120) for p in processes[1:]] == [0, 0]
    processes[0].wait(60)
    files = resolve(str(tiny))
    assert gguf.is_converted(files)
    model_and_tokenizer(files, "cpu")
    assert len(list(cache.glob("gguf/.making-*"))) <= 1


def test_what_a_kill_left_behind_is_cleared_after_an_hour(tiny, cache):
    old, recent = cache / "gguf" / ".making-old", cache / "gguf" / ".making-recent"
    for folder in (old, recent):
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"half")
    os.utime(old, (0, 0))
    gguf.converted(resolve(str(tiny)))
    assert not old.exists()
    assert recent.exists()


def test_a_full_disk_is_a_storage_error_and_leaves_nothing(tiny, cache):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))  # the weights are 300 kB
    try:
        with pytest.raises(StorageError, match="cannot be converted") as caught:
            gguf.converted(resolve(str(tiny)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert "REGARD_CACHE" in caught.value.hint
    assert not list((cache / "gguf").iterdir())


def test_a_cache_folder_that_cannot_be_made(tiny, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("REGARD_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(StorageError, match="cannot be converted"):
        gguf.converted(resolve(str(tiny)))


@pytest.mark.parametrize("content", [b"not a GGUF file at all", b""])
def test_a_file_that_is_no_gguf(content, tmp_path, cache):
    path = tmp_path / "broken.gguf"
    path.write_bytes(content)
    with pytest.raises(UnsupportedModel, match=r"broken\.gguf"):
        model_and_tokenizer(resolve(str(path)), "cpu")


def test_half_a_gguf(tiny, tmp_path, cache):
    path = tmp_path / "half.gguf"
    path.write_bytes(tiny.read_bytes()[:100_000])
    with pytest.raises(UnsupportedModel, match=r"half\.gguf"):
        model_and_tokenizer(resolve(str(path)), "cpu")
    assert not list((cache / "gguf").iterdir())
