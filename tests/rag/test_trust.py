"""A pipeline file sends only the keys that its user allows, and an index loads only the models that its user has
named."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
from pathlib import Path

import pytest
from regard.indexers import build_index
from regard.rag import Document, Pipeline, trust
from regard.rag.app.cli import app
from regard.rag.app.presets import default_pipeline
from regard.rag.dag.scope import Scope
from regard.rag.errors import ConfigError, PipelineError, UntrustedModel
from regard.rag.models import chosen, resolve
from regard.readers import RemoteReader
from regard.readers.chat import ChatClient, connection
from regard.retrievers import Dense
from typer.testing import CliRunner

SECRET = "AKIA/very+secret0123456789="
FILE = """regard: 2
stages:
  bm25: {part: BM25, inputs: [query], index: INDEX}
  read: {part: RemoteReader, inputs: [query, bm25], model: m, BASE, KEY}
outputs: {answer: read}
"""


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_STATE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    for name in ("REGARD_KEYS", "OPENAI_BASE_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(chosen, "_this_process", set())
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)


@pytest.fixture(scope="module")
def lexical(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lexical") / "index"
    build_index([Document("d", "The tower is 330 metres tall.")], path, encoder=None, views=["bm25"], progress=False)
    return path


def _file(folder: Path, index: Path, base: str | None = "https://evil.example/v1",
          key: str | None = "AWS_SECRET_ACCESS_KEY") -> Path:
    path = folder / "their.yaml"
    server, variable = f"base_url: {base or 'null'}", f"api_key_env: {key or 'null'}"
    path.write_text(FILE.replace("INDEX", str(index)).replace("BASE", server).replace("KEY", variable))
    return path


# -- keys -------------------------------------------------------------------------------------


def test_a_file_may_not_name_a_key_of_its_own_choice(tmp_path: Path, lexical: Path) -> None:
    path = _file(tmp_path, lexical)
    shown = CliRunner().invoke(app, ["check", str(path), "--json"])
    told = json.loads(shown.stdout)
    assert shown.exit_code == 1
    (asked,) = told["connections"]
    assert (asked["stage"], asked["host"], asked["variable"], asked["allowed"], asked["set"]) == (
        "read", "evil.example", "AWS_SECRET_ACCESS_KEY", False, True)
    assert [p["fatal"] for p in told["problems"]] == [True]
    assert SECRET not in shown.stdout
    text = CliRunner().invoke(app, ["check", str(path)]).stdout
    assert "evil.example" in text
    assert "not allowed" in text
    with pytest.raises(PipelineError, match="you have not allowed"):
        Pipeline.load(path).run("How tall?")


def test_it_is_refused_once_more_when_the_key_would_be_sent(tmp_path: Path, lexical: Path) -> None:
    stage = Pipeline.load(_file(tmp_path, lexical)).nodes["read"].stage
    for one in (stage, stage.replace(seed=5), copy.deepcopy(stage), pickle.loads(pickle.dumps(stage))):
        client = ChatClient(one.base_url, one.api_key_env, timeout=1, retries=0, origin=one.origin)
        with pytest.raises(ConfigError, match="you have not allowed"):
            client.complete([], {}, print)
        client.close()


@pytest.mark.parametrize(("rule", "allowed"), [
    ("evil.example=AWS_SECRET_ACCESS_KEY", True), ("EVIL.example:443=AWS_SECRET_ACCESS_KEY", True),
    ("evil.example:444=AWS_SECRET_ACCESS_KEY", False),
    ("example=AWS_SECRET_ACCESS_KEY", False), ("evil.example=OTHER", False),
    ("good.example=AWS_SECRET_ACCESS_KEY", False),
])
@pytest.mark.parametrize("how", ["option", "argument", "environment", "config"])
def test_the_user_may_allow_it_outside_the_file(rule: str, allowed: bool, how: str, tmp_path: Path, lexical: Path,
                                                monkeypatch) -> None:
    path = _file(tmp_path, lexical)
    if how == "environment":
        monkeypatch.setenv("REGARD_KEYS", f"a=B, {rule}")
    elif how == "config":
        trust.config_dir().mkdir(parents=True)
        host, _, name = rule.partition("=")
        (trust.config_dir() / "keys.yaml").write_text(f"a: [B, C]\n{host}: {name}\n")
    if how == "option":
        assert CliRunner().invoke(app, ["check", str(path), "--allow-key", rule]).exit_code == (not allowed)
    else:
        problems = Pipeline.load(path, allow_keys=[rule] if how == "argument" else ()).check()
        assert [p.fatal for p in problems] == [] if allowed else [True]


@pytest.mark.parametrize("rule",
                         ["x", "=A", "host=", "host=a b", "http://host=A", "host:x=A", "host=A=B", "user@host=A"])
def test_a_rule_that_is_none_is_refused(rule: str, tmp_path: Path, lexical: Path, monkeypatch) -> None:
    path = _file(tmp_path, lexical)
    with pytest.raises(ConfigError, match="which key may go where"):
        Pipeline.load(path, allow_keys=[rule])
    monkeypatch.setenv("REGARD_KEYS", rule)
    assert "which key may go where" in Pipeline.load(path).check()[0].what


def test_what_is_built_in_and_what_is_the_users(tmp_path: Path, lexical: Path, monkeypatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    assert not Pipeline.load(_file(tmp_path, lexical, None, "OPENAI_API_KEY")).check()
    assert not Pipeline.load(_file(tmp_path, lexical, "https://api.openai.com/v1", "OPENAI_API_KEY")).check()
    assert Pipeline.load(_file(tmp_path, lexical, "https://api.openai.com.evil.example/v1", "OPENAI_API_KEY")).check()
    assert Pipeline.load(_file(tmp_path, lexical, "https://api.openai.com:444/v1", "OPENAI_API_KEY")).check()
    assert Pipeline.load(_file(tmp_path, lexical, "http://api.openai.com:443/v1", "OPENAI_API_KEY")).check()
    monkeypatch.setenv("OPENAI_BASE_URL", "https://mine.example/v1")
    assert not Pipeline.load(_file(tmp_path, lexical, None, "OPENAI_API_KEY")).check()
    assert Pipeline.load(_file(tmp_path, lexical, None)).check(), "the host is the user's, the variable the file's"
    assert not Pipeline.load(_file(tmp_path, lexical), base_url="https://mine.example",
                             api_key_env="AWS_SECRET_ACCESS_KEY").check()
    assert Pipeline.load(_file(tmp_path, lexical), base_url="https://mine.example").check()
    mine = RemoteReader("m", base_url="https://mine.example/v1", api_key_env="AWS_SECRET_ACCESS_KEY")
    assert not list(mine.check()), "made in Python: the author's own"
    assert not Pipeline.load(_file(tmp_path, lexical, "http://evil.example/v1",
                                   None)).check(), "no key, nothing to allow"


def test_a_local_server_needs_no_key_and_gets_none_that_is_not_allowed(tmp_path: Path, lexical: Path,
                                                                       monkeypatch) -> None:
    path = _file(tmp_path, lexical, "http://127.0.0.1:8000/v1", "OPENAI_API_KEY")
    assert not Pipeline.load(path).check()
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    assert Pipeline.load(path).check()
    assert not Pipeline.load(path, allow_keys=["127.0.0.1:8000=OPENAI_API_KEY"]).check()


@pytest.mark.parametrize(("url", "clear"), [
    ("http://evil.example/v1", True), ("http://10.0.0.1/v1", True), ("http://127.0.0.1.evil.example/v1", True),
    ("http://[::2]/v1", True),
    ("http://localhost.evil.example/v1", True), ("http://0.0.0.0/v1", True),
    ("http://127.0.0.1:1/v1", False), ("http://localhost/v1", False),
    ("http://[::1]:8000/v1", False), ("https://evil.example/v1", False),
])
def test_no_key_goes_in_the_clear_to_another_machine(url: str, clear: bool) -> None:
    assert ("in the clear" in connection(url, "AWS_SECRET_ACCESS_KEY", None).refused) == clear


def test_where_a_stage_is_from_is_not_in_its_fingerprint(tmp_path: Path, lexical: Path) -> None:
    loaded = Pipeline.load(_file(tmp_path, lexical)).nodes["read"].stage
    mine = RemoteReader("m", base_url="https://evil.example/v1", api_key_env="AWS_SECRET_ACCESS_KEY")
    assert loaded.fingerprint() == mine.fingerprint()
    assert (loaded.origin is None, mine.origin is None) == (False, True)


def test_a_models_id_is_a_connection_to_the_hub(tmp_path: Path, lexical: Path, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    path = tmp_path / "p.yaml"
    path.write_text(FILE.replace("INDEX", str(lexical)).replace("BASE, KEY",
                                                                "base_url: http://localhost:1/v1, verifier: 'nli:org/model'"))  # noqa: E501
    assert [c.host for c in Pipeline.load(path).connections()["read"]] == ["huggingface.co", "localhost:1"]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert [c.host for c in Pipeline.load(path).connections()["read"]] == ["localhost:1"]


# -- models -----------------------------------------------------------------------------------


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """An index that names a model folder, from another machine: what was named there is forgotten here."""
    shutil.copytree(resolve("minilm").path, tmp_path / "model")
    build_index([Document("d", "The tower is 330 metres tall.")], tmp_path / "index", encoder=str(tmp_path / "model"),
                chunker="whole",
                views=["faiss:flat", "bm25"], progress=False)
    shutil.rmtree(chosen.state_dir())
    chosen._this_process.clear()
    return tmp_path / "index"


def test_an_index_from_others_may_not_choose_the_model(theirs: Path) -> None:
    model = str(theirs.parent / "model")
    with pytest.raises(UntrustedModel) as caught:
        Scope().open(Dense(theirs))
    assert model in caught.value.what
    assert "--trust" in (caught.value.hint or "")
    assert any("nobody else has" in p.what for p in default_pipeline(theirs).check())
    with pytest.raises(UntrustedModel):
        build_index([Document("e", "Another.")], theirs, progress=False)
    shown = CliRunner().invoke(app, ["search", str(theirs), "tower"])
    assert shown.exit_code == 1
    assert len(Dense(theirs, encoder=model).apply(["How tall?"])[0]) == 1
    assert CliRunner().invoke(app, ["search", str(theirs), "tower", "--trust", "--json"]).exit_code == 0
    assert not chosen._trusted_file().exists(), "--trust is for one run"


def test_nothing_of_a_model_that_was_not_chosen_is_read(theirs: Path, monkeypatch) -> None:
    from regard.rag import models

    def refuse(*_: object) -> str:
        raise AssertionError("it was read")

    monkeypatch.setattr(models, "weights_hash", refuse)
    with pytest.raises(UntrustedModel):
        Scope().open(Dense(theirs))


def test_who_indexes_with_a_model_searches_without_a_word(tmp_path: Path) -> None:
    shutil.copytree(resolve("minilm").path, tmp_path / "model")
    build_index([Document("d", "Tall.")], tmp_path / "index", encoder=str(tmp_path / "model"), chunker="whole",
                progress=False)
    chosen._this_process.clear()  # as in another process
    assert len(Dense(tmp_path / "index").apply(["Tall?"])[0]) == 1
    tokenizer = tmp_path / "model" / "vocab.txt"
    tokenizer.write_text(tokenizer.read_text() + "\nx\n")
    with pytest.raises(UntrustedModel):
        Scope().open(Dense(tmp_path / "index"))  # other weights under the name


def test_a_yes_on_a_terminal_is_remembered(theirs: Path, monkeypatch) -> None:
    import sys

    from regard.rag.app.cli import opening

    asked = []
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr("typer.confirm", lambda text, err: asked.append(text) or True)
    opening.consent([theirs], trust=False)
    assert "model" in asked[0]
    chosen._this_process.clear()
    Scope().open(Dense(theirs))
    opening.consent([theirs], trust=False)
    assert len(asked) == 1


@pytest.mark.parametrize("named", ["tokenizer", "language model"])
def test_nor_the_chunkers_tokenizer_nor_a_views_language_model(named: str, tmp_path: Path, lexical: Path,
                                                               monkeypatch) -> None:
    from regard.indexers import delete_documents
    from regard.indexers.jobs import chosen as named_models
    from regard.indexers.views import AttentionCache

    index = tmp_path / "index"
    shutil.copytree(lexical, index)
    if named == "tokenizer":
        shutil.copytree(resolve("minilm").path, tmp_path / "model")
        shutil.rmtree(index)
        build_index([Document("d", "Tall.")], index, encoder=None, views=["bm25"], progress=False,
                    chunker=f"tokens:9,overlap=1,tokenizer={tmp_path / 'model'}")
        shutil.rmtree(chosen.state_dir())
        chosen._this_process.clear()
        with pytest.raises(UntrustedModel, match="tokenizer"):
            build_index([Document("e", "Wide.")], index, encoder=None, progress=False)
    else:
        spec = AttentionCache("evil/model", last=1)
        monkeypatch.setattr(named_models, "view_kinds", lambda path: [spec])
        with pytest.raises(UntrustedModel, match="language model"):
            build_index([Document("e", "Wide.")], index, encoder=None, progress=False)
        with pytest.raises(UntrustedModel, match="language model"):
            delete_documents(index, ["d"])


def test_a_state_file_that_cannot_be_read_or_written_allows_nothing_and_breaks_nothing(theirs: Path,
                                                                                       monkeypatch) -> None:
    chosen.state_dir().mkdir(parents=True)
    for content in ("{", "[]", '{"models": 5}', '{"models": {"a": 5}}', '{"models": []}'):
        chosen._trusted_file().write_text(content)
        with pytest.raises(UntrustedModel):
            Scope().open(Dense(theirs))
    monkeypatch.setenv("XDG_STATE_HOME", "/dev/null")
    chosen.choose(str(theirs.parent / "model"))
    Scope().open(Dense(theirs))
