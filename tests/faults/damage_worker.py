"""Damages files of an index and says what becomes of it: one JSON line in a case, one line out. A crash ends it; its
caller starts another.

A case is ``{"seed": ...}``; what it does to which file follows from that, and from the files.
"""

from __future__ import annotations

import json
import logging
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from conftest import HashEncoder  # type: ignore[attr-defined]  # tests/conftest.py
from regard.indexers import build_index, verify_index
from regard.indexers.stores.lance.store import LanceStore
from regard.indexers.views import open_view, view_kinds
from regard.rag import Document, Query
from regard.rag.dag.cache import StageCache
from regard.rag.errors import RegardError

WORDS = ["flea", "moon", "bread", "honey", "river", "stone", "cloud", "birch"]
VIEWS = ["bm25", "faiss:flat", "faiss:hnsw,m=8", "faiss:ivf,lists=4,probes=4"]
QUERIES = 4
MODEL = str(Path(sys.argv[1]) / "llama") if sys.argv[2:] == ["attention"] else ""
"""The language model whose keys and values the index holds, instead of the other views."""


def encoder() -> HashEncoder:
    return HashEncoder(dimension=32)


def documents(salt: str) -> list[Document]:
    draw = random.Random(salt)
    return [Document(f"d{i}", " ".join(draw.choices(WORDS, k=30)) + f" {salt}{i}", metadata={"n": i})
            for i in range(12 if MODEL else 60)]


def index(home: Path, some: list[Document]) -> None:
    build_index(some, home / "index", chunker="whole", encoder=None if MODEL else encoder(),
                views=[f"attention:{MODEL}"] if MODEL else VIEWS, progress=False)


def make(home: Path, salt: str) -> None:
    """An index of some commits, with a deletion, and a stage cache beside it."""
    from regard.indexers import delete_documents

    some = documents(salt)
    for stop in (len(some) // 2, len(some)):
        index(home, some[:stop])
    delete_documents(home / "index", ["d7"])
    cache = StageCache(home / "cache")
    for i in range(3):
        cache.put(cache.key(salt, [Query(WORDS[i])]), Query(f"{salt} {WORDS[i]}"))


def look(home: Path, salt: str) -> dict[str, Any]:
    """What every part gives: its results, a typed error's name, or ``raw ...``."""
    vectors = encoder().encode_passages([f"q{i}" for i in range(QUERIES)])
    found: dict[str, Any] = {}

    def part(name: str, act: Callable[[], Any]) -> None:
        try:
            found[name] = act()
        except RegardError as error:
            found[name] = f"typed {type(error).__name__}"
        except Exception as error:
            found[name] = f"raw {type(error).__name__}: {error}"[:300]

    def search(view: str) -> Any:
        store = LanceStore(home / "index")
        spec = next(spec for spec in view_kinds(home / "index") if spec.folders()[0] == view)
        asked = WORDS[:QUERIES] if view == "bm25" else vectors
        opened = open_view(store, spec)
        rows, scores = opened.search(asked, 5)
        return [[[p.id, p.text, round(float(s), 3)] for p, s in zip(store.passages(r), ss, strict=True)]
                for r, ss in zip(rows, scores, strict=True)]

    def passages() -> Any:
        store = LanceStore(home / "index")
        return [[p.id, p.document_id, p.text, p.start, p.end, p.title, p.metadata] for p in store.passages(store.rows)]

    def cached() -> Any:
        cache = StageCache(home / "cache")
        entries = [cache.get(cache.key(salt, [Query(WORDS[i])]), Query) for i in range(3)]
        return [entry and entry.text for entry in entries]

    def stored() -> Any:
        from regard.indexers.views.attention.opening import open_prefills
        from regard.rag import Ranking
        from regard.rag.lm.passages import Format

        store = LanceStore(home / "index")
        view = open_prefills(str(home / "index"), MODEL, Format(), 3)
        ranking = Ranking.ranked(store.rows[:8], -np.arange(8.0), "bm25", store)
        prefill, spans = view.prefill(ranking)
        sums = [round(float(numbers.float().abs().sum()), 2) for numbers in [*prefill.keys, *prefill.values]]
        return [list(map(list, spans)), list(prefill.plan.ids), sums]

    if MODEL:
        part("attention", stored)
    for view in () if MODEL else ("bm25", "faiss-flat-hash_encoder", "faiss-hnsw-hash_encoder",
                                  "faiss-ivf-hash_encoder"):
        part(view, lambda view=view: search(view))
    part("passages", passages)
    part("filter", lambda: LanceStore(home / "index").select({"n": {"gte": 8}}).tolist())
    part("cache", cached)
    return found


def damage(home: Path, other: Path, seed: int) -> str:
    """Do one random thing to one random file; what was done."""
    draw = random.Random(seed)
    kind = draw.choice(["views", "views", "data", "store", "cache", "any"])
    files = sorted(file for file in home.rglob("*") if file.is_file() and file.name != ".lock" and {
        "views": "views" in file.parts, "data": "data" in file.parts, "store": "passages.lance" in file.parts,
        "cache": "cache" in file.parts, "any": True}[kind])
    file = draw.choice(files)
    name, data = file.relative_to(home).as_posix(), bytearray(file.read_bytes())
    what = draw.choice(["flip", "flip", "truncate", "extend", "zero", "delete", "swap", "replace", "garbage"])
    at = draw.randrange(max(len(data), 1))
    if what == "flip" and data:
        data[at] ^= 1 << draw.randrange(8)
    elif what == "truncate":
        del data[at:]
    elif what == "extend":
        data += draw.randbytes(draw.choice([1, 100, 5000]))
    elif what == "zero":
        data[at:at + 512] = bytes(len(data[at:at + 512]))
    elif what == "garbage":
        data[:] = draw.randbytes(len(data))
    elif what == "delete":
        file.unlink()
        return f"delete {name}"
    elif what == "swap":
        second = draw.choice(files)
        data2 = second.read_bytes()
        second.write_bytes(data)
        file.write_bytes(data2)
        return f"swap {name} and {second.relative_to(home).as_posix()}"
    elif what == "replace":
        same = sorted(f for f in other.rglob(f"*{file.suffix}") if f.is_file() and file.name in (f.name, f.parent.name))
        data[:] = draw.choice(same).read_bytes() if same else b""
    file.write_bytes(data)
    return f"{what} {name}"


def case(home: Path, pristine: Path, other: Path, seed: int, expected: dict[str, Any]) -> dict[str, Any]:
    def again() -> str:
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(pristine, home)
        return damage(home, other, seed)

    done: dict[str, Any] = {"seed": seed, "did": again()}
    print(json.dumps(done), flush=True)  # before anything can crash
    found = look(home, "a")
    done["raw"] = {name: value for name, value in found.items() if str(value).startswith("raw")}
    done["typed"] = [name for name, value in found.items() if str(value).startswith("typed")]
    done["wrong"] = [name for name, value in found.items() if not str(value).startswith(("raw", "typed"))
                     and value != expected[name]
                     and name != "cache"]
    if any(entry not in (None, right) for entry, right in zip(found["cache"], expected["cache"], strict=True)):
        done["wrong"].append("cache")
    again()
    try:
        done["whole"] = verify_index(home / "index", progress=False).ok
    except RegardError as error:
        done["whole"] = False
        done["verify"] = f"typed {type(error).__name__}"
    except Exception as error:
        done["raw"]["verify"] = f"raw {type(error).__name__}: {error}"[:300]
    if all(part.startswith("index/views/") for part in done["did"].split() if "/" in part):
        try:
            index(home, documents("a")[:7] + documents("a")[8:])
            done["mended"] = verify_index(home / "index", progress=False).ok and look(home, "a") == expected
        except Exception as error:
            done["mended"] = f"{type(error).__name__}: {error}"[:300]
    else:
        try:
            done["repaired"] = verify_index(home / "index", repair=True, progress=False).ok
        except RegardError as error:
            done["repaired"] = f"typed {type(error).__name__}: {error}"[:200]
        except Exception as error:
            done["raw"]["repair"] = f"raw {type(error).__name__}: {error}"[:300]
    return done


def main(base: Path) -> None:
    logging.disable(logging.CRITICAL)
    if MODEL and not Path(MODEL).exists():
        from lms import random_lm

        random_lm(Path(MODEL))
    if not (base / "pristine").exists():
        for name, salt in (("pristine", "a"), ("other", "b")):
            make(base / name, salt)
    expected = look(base / "pristine", "a")
    assert not [value for value in expected.values() if str(value).startswith(("raw", "typed"))], expected
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(case(base / "home", base / "pristine", base / "other", int(line), expected), default=str),
              flush=True)


if __name__ == "__main__":
    np.seterr(all="ignore")
    main(Path(sys.argv[1]))
