"""What several test folders share: real collections, a small real index, and a deterministic stub encoder for what is
about storage."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import settings
from regard.indexers import build_index
from regard.rag import Document
from regard.rag.models.encoding import Encoder

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may wait for a network

# which models this machine's user has named is not theirs
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="regard-tests-")
os.environ["XDG_CONFIG_HOME"] = os.environ["XDG_STATE_HOME"]
os.environ.pop("REGARD_KEYS", None)

# distributions that bring their own parts: the tables find them
sys.path.append(str(Path(__file__).parent / "third_party"))

settings.register_profile("regard", deadline=None)  # a busy machine is no failure
settings.load_profile("regard")

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real collections; their absence fails the test where ``REGARD_REQUIRE_DATA`` is set and skips it
    elsewhere."""
    if not SHARED.exists():
        if os.environ.get("REGARD_REQUIRE_DATA"):
            pytest.fail(f"the collections are not at {SHARED}")
        pytest.skip(f"needs the collections at {SHARED}")
    return SHARED


class HashEncoder(Encoder):
    """Unit vectors that are a function of the text alone; counts what it encodes. It opens nothing: it is its own open
    form."""

    name: ClassVar[str] = "hash-encoder"
    dimension: int = 384
    salt: str = ""
    output: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "_encoded", [0])

    @property
    def encoded(self) -> int:
        return self._encoded[0]

    def description(self) -> dict[str, Any]:
        return {"kind": "hash", "model": self.name, "salt": self.salt, "dimension": self.dimension, "normalize": True}

    def open(self, scope: Any, /) -> Any:
        return self

    def truncated(self, texts: Sequence[str]) -> int:
        return 0

    def encode_passages(self, texts: Sequence[str]) -> np.ndarray:
        self._encoded[0] += len(texts)
        made = [self._vector(text) for text in texts]
        return np.stack(made) if made else np.zeros((0, self.output or self.dimension), np.float32)

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        return self.encode_passages(texts)

    def _vector(self, text: str) -> np.ndarray:
        seed = int.from_bytes(hashlib.blake2b((self.salt + text).encode(), digest_size=8).digest(), "little")
        vector = np.random.default_rng(seed).standard_normal(self.output or self.dimension).astype(np.float32)
        return vector / np.linalg.norm(vector)


@pytest.fixture(scope="session")
def hash_encoder() -> type[HashEncoder]:
    return HashEncoder


FACTS = {
    "flea": ("Fleas", "The life cycle of a flea lasts from two weeks to eight months. A female flea lays up to fifty "
                      "eggs a day."),
    "moon": ("The Moon", "The Moon orbits the Earth once in about 27 days. Its gravity causes the tides."),
    "bread": ("Bread", "Bread dough rises because yeast ferments sugar and gives off carbon dioxide. Salt slows the "
                       "yeast down."),
    "python": ("shutil.rmtree", "Recursively delete a directory tree. If ignore_errors is set, errors are ignored."),
    "volcano": ("Volcanoes",
                "A volcano erupts when molten rock rises to the surface. Ash can travel thousands of kilometres."),
    "heart": ("The heart", "The human heart pumps about five litres of blood a minute. It has four chambers."),
    "bridge": ("Bridges", "A suspension bridge hangs its deck from cables. The cables are held by two towers."),
    "honey": ("Honey", "Honey never spoils because it holds little water. Bees make it from nectar."),
}


@pytest.fixture(scope="session")
def facts() -> list[Document]:
    """Eight short documents about different things; ``year`` counts from 2000."""
    return [Document(key, text, title, {"year": 2000 + i, "kind": "tech" if key in ("python", "bridge") else "nature"})
            for i, (key, (title, text)) in enumerate(FACTS.items())]


@pytest.fixture(scope="session")
def facts_index(facts: list[Document], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of ``facts`` with minilm vectors, sentence chunks, flat and BM25 views."""
    path = tmp_path_factory.mktemp("facts") / "index"
    build_index(facts, path, encoder="minilm", chunker="sentences:40,overlap=0", progress=False)
    return path
