"""``python:`` reads what the running Python says about itself."""

import subprocess
import sys

import pytest
from regard.indexers.corpus import detect_format, read_corpus
from regard.rag.errors import CorpusError

SCRIPT = """
import hashlib
from regard.indexers.corpus import read_corpus
documents = read_corpus("python:", on_skip=print)
print(hashlib.sha256(repr(list(documents)).encode()).hexdigest())
"""


def read(source):
    skips = []
    return {d.id: d for d in read_corpus(source, on_skip=skips.append)}, skips


def test_the_well_known_library_answers_common_questions():
    documents, skips = read("python:")
    assert skips == []
    assert 1000 <= len(documents) <= 1500
    for name, words in {
        "shutil.rmtree": "delete a directory tree", "csv": "csv", "csv.reader": "csv", "copy.deepcopy": "deep copy",
        "subprocess.check_output": "output", "json.loads": "json", "glob.glob": "pattern",
        "time.perf_counter": "performance counter",
        "tempfile.TemporaryDirectory": "temporary directory", "pathlib.Path.read_text": "open the file in text mode",
        "builtins.str.split": "list of the substrings", "topics.with": "context manager",
    }.items():
        assert words in documents[name].text.lower(), name
    assert documents["shutil.rmtree"].title.startswith("shutil.rmtree(path, ignore_errors=False")
    assert documents["builtins.str.split"].title == "builtins.str.split(sep=None, maxsplit=-1)"
    assert documents["shutil.rmtree"].metadata == {"module": "shutil", "kind": "function"}
    assert {d.metadata["kind"] for d in documents.values()} == {"module", "class", "function", "method", "topic"}
    for document in documents.values():
        assert len(document.text.split()) >= 5
        assert " at 0x" not in document.title
        assert not any(part.startswith("_") for part in document.id.split("."))


def test_named_modules_are_read_alone_and_whole():
    documents, _ = read("python:shutil, json")
    assert {d.metadata["module"] for d in documents.values()} == {"shutil", "json"}
    assert {"shutil", "shutil.copytree", "json.dumps"} <= documents.keys()
    topics, _ = read("python:topics")
    assert len(topics) > 70
    assert detect_format("python:shutil") == "python"


def test_only_the_standard_library_is_imported():
    for name in ("numpy", "this", "antigravity", "no_such_module", "json.__main__"):
        with pytest.raises(CorpusError, match=name):
            read(f"python:json,{name}")
    assert "this" not in sys.modules
    documents, skips = read("python:json.no_such_part")
    assert documents == {}
    assert [skip.location for skip in skips] == ["json.no_such_part"]


def test_two_processes_read_the_same():
    hashes = {
        subprocess.check_output([sys.executable, "-c", SCRIPT], env={"PYTHONHASHSEED": seed, "PATH": ""})
        for seed in ("1", "2")
    }
    assert len(hashes) == 1


def test_methods_that_others_graft_onto_a_class_are_no_documentation_of_python(monkeypatch):
    import logging

    def grafted(self):
        """This was put here by quite another distribution."""

    monkeypatch.setattr(logging.Logger, "grafted", grafted, raising=False)
    assert grafted.__module__.partition(".")[0] not in sys.stdlib_module_names
    assert not [d.id for d in read_corpus("python:logging", on_skip=print) if "grafted" in d.id]
