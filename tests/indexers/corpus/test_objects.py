"""Python objects as corpora: every item is a document, a counted skip or an error, never nothing."""

from __future__ import annotations

import datetime
import decimal
import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import datasets
import numpy as np
import pandas as pd
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.documents import Document as LangChainDocument
from regard.indexers import build_index
from regard.indexers.corpus import Limits, Skip, objects
from regard.indexers.stores.lance.store import LanceStore
from regard.rag import Document
from regard.rag.errors import CorpusError

ROWS = [{"id": "a", "text": "A text.", "title": "A", "year": 2001},
        {"id": "b", "text": "B text.", "title": "", "year": 2002}]
DOCUMENTS = [Document("a", "A text.", "A", {"year": 2001}), Document("b", "B text.", "", {"year": 2002})]


class GenericDoc(NamedTuple):
    """As ir_datasets defines it (formats/base.py)."""

    doc_id: str
    text: str

    def default_text(self) -> str:
        return self.text


class CordDoc(NamedTuple):
    """As ir_datasets defines it (datasets/cord19.py)."""

    doc_id: str
    title: str
    doi: str
    date: str
    abstract: str

    def default_text(self) -> str:
        return f"{self.title} {self.abstract}"


class MsMarcoDocument(NamedTuple):
    """As ir_datasets defines it (formats/msmarco.py)."""

    doc_id: str
    url: str
    title: str
    body: str

    def default_text(self) -> str:
        return f"{self.title} {self.body}"


@dataclass(slots=True)
class Slotted:
    docid: int
    contents: str


class Model(pydantic.BaseModel):
    id: str
    body: str
    year: int


def _read(corpus: Any) -> tuple[list[Document], list[Skip]]:
    skips: list[Skip] = []
    return list(objects.read(corpus, Limits(), skips.append)), skips


def _job(corpus: Any, path: Path) -> Any:
    return build_index(corpus, path, encoder=None, chunker="whole", progress=False)


def _stored(path: Path) -> dict[str, tuple[str, str, dict[str, Any]]]:
    store = LanceStore(path)
    return {p.document_id: (p.text, p.title, dict(p.metadata)) for p in store.passages(store.rows)}


def _as_frame() -> pd.DataFrame:
    return pd.DataFrame(ROWS)


CORPORA = {
    "documents": lambda: DOCUMENTS, "dicts": lambda: ROWS, "generator": lambda: (row for row in ROWS),
    "frame": _as_frame,
    "frame with an index": lambda: _as_frame().set_index("id"), "frame with other names":
        lambda: _as_frame().rename(columns={"id": "docno", "text": "contents"}),
    "dataset": lambda: datasets.Dataset.from_list(ROWS),
    "numpy dataset": lambda: datasets.Dataset.from_list(ROWS).with_format("numpy"),
    "pandas dataset": lambda: datasets.Dataset.from_list(ROWS).with_format("pandas"),
    "streamed dataset": lambda: datasets.Dataset.from_list(ROWS).to_iterable_dataset(),
    "objects": lambda: [SimpleNamespace(**row) for row in ROWS],
    "langchain": lambda: [LangChainDocument(r["text"], id=r["id"], metadata={"title": r["title"], "year": r["year"]})
                          for r in ROWS],
    "mixed": lambda: [DOCUMENTS[0], ROWS[1]],
}


@pytest.mark.parametrize("corpus", CORPORA)
def test_every_kind_of_corpus_gives_the_same_index(corpus: str, tmp_path: Path) -> None:
    report = _job(CORPORA[corpus](), tmp_path)
    assert (report.documents, report.passages, report.skipped) == (2, 2, 0)
    assert _stored(tmp_path) == {d.id: (d.text, d.title, d.metadata) for d in DOCUMENTS}
    assert _job(DOCUMENTS, tmp_path).unchanged == 2


def test_what_is_no_document_in_a_list_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"position 2 is no document: str 'a string'"):
        _job([DOCUMENTS[0], ROWS[1], "a string", None], tmp_path / "i")
    with pytest.raises(CorpusError, match=r"position 1 is no document: NoneType"):
        _job([ROWS[0], None], tmp_path / "i")
    half = (SimpleNamespace(text="no id"), SimpleNamespace(id="no text"))
    for item in (7, b"bytes", ("a", "text"), {"a"}, *half, datasets.Dataset.from_list(ROWS)):
        with pytest.raises(CorpusError, match=rf"position 0 is no document: {type(item).__name__}"):
            _job([item], tmp_path / "i")
    assert not (tmp_path / "i").exists()


def test_in_a_generator_it_is_refused_at_its_place_and_what_is_committed_is_said(tmp_path: Path,
                                                                                 hash_encoder: Any) -> None:
    def corpus(bad: Any) -> Iterator[Any]:
        yield from ({"id": i, "text": f"text {i}"} for i in range(40))
        yield bad

    encoder = hash_encoder(4)
    with pytest.raises(CorpusError, match="position 40 is no document: float") as caught:
        build_index(corpus(0.5), tmp_path, encoder=encoder, chunker="whole", progress=False)
    held = len(LanceStore(tmp_path))
    assert held == encoder.encoded == 16  # one block; nothing that was encoded is lost
    said = f"{held} passages of {held} documents are committed to {tmp_path}; the same command goes on from there"
    assert caught.value.__notes__ == [said]
    build_index(corpus(ROWS[0]), tmp_path, encoder=encoder, progress=False)
    assert (len(LanceStore(tmp_path)), encoder.encoded) == (41, 41)


@pytest.mark.parametrize(("corpus", "says"), [
    (7, "type int"), (b"bytes", "type bytes"), (Document("a", "b"), "type Document"),
    ({"id": ["a"], "text": ["b"]}, "type dict"),
    (datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}), "type DatasetDict"),
    (pd.DataFrame({"text": ["x"], "n": [1]}), "no id column; its columns are text, n"),
    (pd.DataFrame({"id": ["x"], "n": [1]}), "no text column; its columns are id, n"),
    (datasets.Dataset.from_dict({"id": ["x"], "n": [1]}), "no text column; its columns are id, n"),
])
def test_what_is_no_corpus_is_refused_before_the_work(corpus: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=says) as caught:
        _job(corpus, tmp_path / "i")
    assert caught.value.hint
    assert not (tmp_path / "i").exists()


def test_missing_values_are_counted_skips_with_their_position(tmp_path: Path) -> None:
    frame = pd.DataFrame({"id": ["a", "b", "c", None, "e"], "text": ["x", None, float("nan"), "y", "z"],
                          "n": [1.5, 2, 3, 4, None]})
    report = _job(frame, tmp_path)
    assert (report.passages, report.skipped) == (2, 3)
    assert [(s.source, s.location) for s in report.skips] == [("DataFrame", f"position {i}") for i in (1, 2, 3)]
    assert ["no text" in s.reason for s in report.skips] == [True, True, False]
    assert _stored(tmp_path) == {"a": ("x", "", {"n": 1.5}), "e": ("z", "", {})}
    assert [s.location for s in _read([{"id": "a"}, {"text": "t"}, Document("c", None)])[1]] == [f"position {i}"
                                                                                                 for i in range(3)]


def test_ir_datasets_documents_and_datasets() -> None:
    docs = [GenericDoc("1", "plain"), MsMarcoDocument("2", "http://u", "T", "body"),
            CordDoc("3", "T", "10.1", "2020-01-01", "abstract")]
    expected = [Document("1", "plain"), Document("2", "body", "T", {"url": "http://u"}),
                Document("3", "abstract", "T", {"doi": "10.1", "date": "2020-01-01", "abstract": "abstract"})]
    assert _read(docs) == (expected, [])

    class Dataset:
        def docs_iter(self) -> Iterator[Any]:
            return iter(docs)

        def docs_count(self) -> int:
            return len(docs)

    assert _read(Dataset()) == (expected, [])
    assert objects.estimate(Dataset()) == 3


def test_objects_are_read_by_their_fields() -> None:
    assert _read([Slotted(7, "x"), Model(id="m", body="y", year=3)]) == ([Document("7", "x"),
                                                                          Document("m", "y", "", {"year": 3})], [])


def test_langchain_documents_that_share_a_source_are_all_kept() -> None:
    pages = [LangChainDocument(f"page {i}", metadata={"source": "manual.pdf", "page": i}) for i in range(3)]
    documents, skips = _read([*pages, {"id": "other", "text": "t"}])
    assert [d.id for d in documents] == ["manual.pdf", "manual.pdf#2", "manual.pdf#3", "other"]
    assert not skips
    assert documents[2].metadata == {"source": "manual.pdf", "page": 2}


def test_metadata_becomes_json_values() -> None:
    when = datetime.datetime(2024, 2, 29, 12, 30)
    row = {
        "id": np.int64(12), "text": np.str_("t"), "int": np.int32(3), "float": np.float32(0.5), "bool": np.bool_(True),
        "nan": float("nan"),
        "na": pd.NA, "nat": pd.NaT, "npnat": np.datetime64("NaT"), "inf": float("inf"), "stamp": pd.Timestamp(when),
        "ns": np.datetime64(when, "ns"), "day": when.date(), "delta": pd.Timedelta(minutes=2),
        "money": decimal.Decimal("2.50"),
        "snan": decimal.Decimal("sNaN"), "uuid": uuid.UUID(int=1), "path": Path("a/b"), "bytes": b"x", "list": [1, 2],
        "vector": np.zeros(3),
        "metadata": {"tags": np.array(["x", "y"]), "nested": {"when": when}, "none": None},
    }
    (document,), skips = _read([row])
    assert not skips
    assert (document.id, document.text) == ("12", "t")
    assert document.metadata == {
        "int": 3, "float": 0.5, "bool": True, "stamp": "2024-02-29T12:30:00", "ns": "2024-02-29T12:30:00",
        "day": "2024-02-29",
        "delta": 120.0, "money": 2.5, "uuid": str(uuid.UUID(int=1)), "path": "a/b", "tags": ["x", "y"],
        "nested": {"when": "2024-02-29T12:30:00"},
    }
    assert json.loads(json.dumps(document.metadata, allow_nan=False)) == document.metadata


def test_whole_ids_in_a_column_of_floats_stay_whole() -> None:
    documents, skips = _read(pd.DataFrame({"id": [1, None, 3], "text": ["x", "y", "z"]}))
    assert ([d.id for d in documents], [s.location for s in skips]) == (["1", "3"], ["position 1"])


VALUES = st.one_of(st.none(), st.text(max_size=3), st.integers(), st.floats(), st.booleans(), st.binary(max_size=2),
                   st.dates(),
                   st.sampled_from([pd.NA, pd.NaT]))


@given(st.lists(st.dictionaries(st.sampled_from(["id", "_id", "doc_id", "text", "body", "title", "metadata", "year"]),
                                VALUES), max_size=8))
def test_every_record_is_a_document_or_a_skip_and_metadata_is_json(rows: list[dict[str, Any]]) -> None:
    documents, skips = _read(rows)
    assert len(documents) + len(skips) == len(rows)
    for document in documents:
        json.dumps(document.metadata, allow_nan=False)
