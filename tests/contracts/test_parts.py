"""Every part of every table, also of those of ``tests/third_party``: one thing in three forms, a value, with a
fingerprint that moves with all of it.

Kinds of parts are found by the entry-point groups whose tables hold them, so that a new kind, and a new part of an old
one, is tested by being listed.
"""

from __future__ import annotations

import copy
import functools
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from regard.indexers.chunkers import Chunker
from regard.rag import tables
from regard.rag.errors import ConfigError, MissingDependency, RegardError
from regard.rag.nouns import Query, Ranking, State, Verdict
from regard.rag.parts import Count, Part, nested, part, plain, register, text_of
from regard.rag.parts.fields import KIND, adapters
from regard.rag.parts.schema import definitions, of_class, schema
from regard.rag.tables import table


def shout(query: Query) -> Query:
    """What a stage that is a function holds."""
    return query.derive(query.text.upper())


def whisper(query: Query) -> Query:
    return query.derive(query.text.lower())


def kind_of(cls: type[Part]) -> type[Part]:
    """The base that names the group."""
    return next(base for base in reversed(cls.__mro__) if issubclass(base, Part) and base.group)


def _classes() -> Iterator[type[Part]]:
    for group in sorted(group for group in entry_points().groups if group.startswith("regard.")):
        for name in table(group):
            if table(group).place_of(name) is None:  # another test file's, of this session
                continue
            with suppress(RegardError):  # a package that is not installed
                found = table(group)[name]
                if isinstance(found, type) and issubclass(found, Part):
                    yield found


CLASSES = list(dict.fromkeys(_classes()))
KINDS = list(dict.fromkeys(map(kind_of, CLASSES)))
each_class = pytest.mark.parametrize("cls", CLASSES,
                                     ids=lambda cls: f"{cls.group.removeprefix('regard.')}-{cls.__name__}")
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies outside the settings (weights, indexes) stands still: ``test_stage_fingerprints`` moves it."""
    for cls in CLASSES:
        monkeypatch.setattr(cls, "identity", lambda self: None)


# -- another value for a setting, whatever its type -------------------------------------------

ODD = 'a, "b" (c) = [d]\\'
PLAIN = (ODD, "else", "{passages} {question}?", "http://localhost:8000/v1", 3, 2, 500, 1, 0, 0.25, 0.75, True, False,
         None,
         ["x", ODD], [1.5, 2.0], ["x"], {"k": ODD}, shout, whisper)
NEEDS: dict[str, dict[str, Any]] = {"stride": {"window": 4}}
"""Settings that another cannot be set without."""


def sure(query: Query, ranking: Ranking) -> Verdict:
    return Verdict("enough")


def easy(query: Query) -> Verdict:
    return Verdict("easy")


def hard(query: Query) -> Verdict:
    return Verdict("hard")


def hop(state: State) -> State:
    return state


def hop_on(state: State) -> State:
    return state


def done(state: State) -> Verdict:
    return Verdict("done")


def _made(name: str) -> Part:
    return table("regard.stages")[name]()


EXAMPLES: dict[str, list[Callable[[], dict[str, Any]]]] = {
    "Each": [lambda: {"body": shout}, lambda: {"body": whisper}, lambda: {"body": shout, "over": "query"}],
    "Choose": [lambda: {"gate": easy, "routes": {"easy": shout}}, lambda: {"gate": easy, "routes": {"easy": whisper}},
               lambda: {"gate": easy, "routes": {"easy": shout, "hard": whisper}, "otherwise": "hard"},
               lambda: {"gate": hard, "routes": {"hard": whisper}}],
    "Loop": [lambda: {"body": hop, "most": 2}, lambda: {"body": hop, "most": 3},
             lambda: {"body": hop, "most": 2, "until": done},
             lambda: {"body": hop_on, "most": 2}],
    "Cascade": [lambda: {"stages": [_made("CrossEncoder")], "enough": sure},
                lambda: {"stages": [_made("CrossEncoder")], "enough": _made("Margin")},
                lambda: {"stages": [_made("CrossEncoder"), _made("AttentionReranker")], "enough": sure}],
    "Function": [lambda: {"function": shout}, lambda: {"function": whisper}],  # one whose types are given is in no file
}
"""What holds plans or functions: settings that fit together are no matter of types."""
IN_NO_FILE = {"Function": {"takes", "gives"}}
"""Settings that are given in Python only."""


def candidates(cls: type[Part], setting: str) -> Iterator[Any]:
    """Values that the setting's type may take."""
    with suppress(Exception):  # a type without a schema, such as a function's
        yield from _named_in(adapters(cls)[setting].json_schema())
    yield from PLAIN


def _named_in(shape: Any) -> Iterator[Any]:
    """The words that a schema lists, and the parts of the kinds that it refers to."""
    if isinstance(shape, list):
        for item in shape:
            yield from _named_in(item)
    elif isinstance(shape, dict):
        yield from shape.get("enum", [])
        if "const" in shape:
            yield shape["const"]
        if KIND in shape:
            yield from (one for cls in CLASSES if kind_of(cls) is shape[KIND] and (one := made(cls)))
        for item in shape.values():
            yield from _named_in(item)


@functools.cache
def made(cls: type[Part]) -> Part:
    """One with a value for what must be given."""
    if cls.__name__ in EXAMPLES:
        return cls(**EXAMPLES[cls.__name__][0]())
    signature = cls.__signature__.parameters.values()  # type: ignore[attr-defined]
    needed = [setting.name for setting in signature if setting.default is setting.empty]
    given: dict[str, Any] = {}
    for setting in needed:
        for value in candidates(cls, setting):
            with suppress(ValueError, RegardError):
                adapters(cls)[setting].validate_python(value)
                given[setting] = value
                break
    return cls(**given)


def others_of(cls: type[Part]) -> dict[str, Part]:
    """By setting, the part with another value of it; without those that can have only one."""
    start = made(cls)
    found: dict[str, Part] = {}
    for setting in cls.setting_names():
        for value in candidates(cls, setting):
            with suppress(RegardError):
                changed = start.replace(**{**NEEDS.get(setting, {}), setting: value})
                if getattr(changed, setting) != getattr(start, setting):
                    found[setting] = changed
                    break
    return found


def single(cls: type[Part], setting: str) -> bool:
    shape = adapters(cls)[setting].json_schema()
    return shape == {"type": "null"} or "const" in shape


def variants(cls: type[Part]) -> list[Part]:
    """It, and it with each setting changed."""
    if cls.__name__ in EXAMPLES:
        return [cls(**example()) for example in EXAMPLES[cls.__name__]]
    return [made(cls), *others_of(cls).values()]


# -- the contract ---------------------------------------------------------------------------


@each_class
def test_each_setting_can_be_another(cls: type[Part]) -> None:
    start, *rest = variants(cls)
    missing = {setting for setting in cls.setting_names()
               if not any(getattr(one, setting) != getattr(start, setting) for one in rest)}
    missing -= IN_NO_FILE.get(cls.part_name(), set())
    assert all(single(cls, setting) for setting in missing), f"no other value of {missing} was found: add one to PLAIN"


@each_class
def test_python_text_and_plain_values_are_one_thing(cls: type[Part]) -> None:
    kind, name = kind_of(cls), cls.part_name()
    for one in variants(cls):
        assert part(kind, text_of(one)) == one
        assert part(kind, text_of(one, one.settings())) == one
        assert part(kind, text_of(one).replace(name, name.upper(), 1)) == one
        assert part(kind, plain(one)) == one
        assert part(kind, yaml.safe_load(yaml.safe_dump(plain(one), allow_unicode=True))) == one
        assert part(kind, one) is one
        assert cls(**one.settings()) == one
        for first in cls.setting_names()[:1]:
            assert cls(getattr(one,
                               first), **{key: value for key, value in one.settings().items() if key != first}) == one


@each_class
def test_text_and_fingerprint_and_hash_are_of_what_it_is(cls: type[Part], settled: None) -> None:
    """All settings are in the fingerprint; equal parts have equal ones, and equal hashes and texts."""
    found = variants(cls)
    assert len({one.fingerprint() for one in found}) == len(set(found)) == len({text_of(one)
                                                                                for one in found}) == len({*map(repr, found)})  # noqa: E501
    for one in found:
        again = part(kind_of(cls), plain(one))
        assert (again.fingerprint(), hash(again), repr(again)) == (one.fingerprint(), hash(one), repr(one))
        assert all(f"{setting}=" in repr(one) for setting in one.changed())


@each_class
def test_class_version_and_identity_are_in_the_fingerprint(cls: type[Part], settled: None,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    one = made(cls)
    mine = type("Mine", (cls,), {"__module__": __name__})(**one.settings())
    assert mine != one
    newer = type("Newer", (cls,), {"__module__": __name__, "version": cls.version + 1})(**one.settings())
    prints = {one.fingerprint(), mine.fingerprint(), newer.fingerprint()}
    monkeypatch.setattr(cls, "identity", lambda self: {"weights": "others"})
    assert len(prints | {one.fingerprint()}) == 4


@each_class
def test_it_is_a_value(cls: type[Part]) -> None:
    for one in variants(cls):
        for again in (copy.copy(one), copy.deepcopy(one)):
            assert type(again) is cls
            assert again == one
        for setting, value in one.settings().items():
            with pytest.raises(ConfigError, match="is a value"):
                setattr(one, setting, value)
            with pytest.raises(ConfigError, match="is a value"):
                delattr(one, setting)
            assert not isinstance(value, list | dict | set)
        with pytest.raises(ConfigError, match="is a value"):
            one.anything = 1  # type: ignore[attr-defined]


@each_class
def test_what_is_wrong_with_a_setting_is_said(cls: type[Part]) -> None:
    kind, name = kind_of(cls), cls.part_name()
    start = made(cls)
    for attempt in (lambda: cls(**start.settings(), no_such=1), lambda: part(kind, f"{name}:no_such=1"),
                    lambda: part(kind, {**plain(start), "no_such": 1}), lambda: part(kind, {**plain(start), 5: 1}),
                    lambda: part(kind, {**plain(start), "self": 1}), lambda: start.replace(no_such=1)):
        with pytest.raises(ConfigError) as caught:
            attempt()
        assert any(word in str(caught.value) for word in ("no_such", "5:", "self"))
        assert caught.value.hint
    with pytest.raises(ConfigError, match="by position"):
        cls(*[getattr(start, setting) for setting in cls.setting_names()], 1, 2)
    for setting in cls.setting_names():
        with suppress(ValueError, RegardError):
            adapters(cls)[setting].validate_python(object())
            continue  # it takes anything
        with pytest.raises(RegardError):  # of no type that a setting has
            start.replace(**{setting: object()})


@each_class
def test_it_is_registered_where_it_is_defined(cls: type[Part]) -> None:
    """Files find it by the name that it has in its table."""
    assert cls.table()[cls.part_name()] is cls
    assert next(path for path, _ in nested(made(cls))) == ""
    assert cls.table().place_of(cls.part_name()) == f"{cls.__module__}:{cls.__qualname__}"


@each_class
def test_its_schema_takes_it(cls: type[Part]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    kind = kind_of(cls)
    check = jsonschema.Draft202012Validator({**of_class(cls), "$defs": definitions(kind)})
    anything = jsonschema.Draft202012Validator(schema(kind))
    for one in variants(cls):
        check.validate(plain(one))
        anything.validate(plain(one))
        anything.validate(text_of(one))
    assert not check.is_valid({**plain(variants(cls)[0]), "part": "Another"})
    assert not check.is_valid({})


# -- names ----------------------------------------------------------------------------------


@each_kind
def test_a_name_that_is_taken_is_refused(kind: type[Part]) -> None:
    for name in kind.table().names():
        for alike in (name, name.swapcase()):
            with pytest.raises(ConfigError, match="taken"):
                register(type("Other", (kind,), {"__module__": __name__}), name=alike)
    with pytest.raises(ConfigError, match="no name of a part"):
        register(type("Other", (kind,), {"__module__": __name__}), name="a:b")


@each_kind
def test_what_a_session_registers_is_one_of_them(kind: type[Part]) -> None:
    mine = type("OfThisSession", (kind,), {"__module__": __name__, "__annotations__": {"depth": Count}, "depth": 3})
    register(mine)
    try:
        assert part(kind, "ofthissession:depth=4") == mine(depth=4) == part(kind, {"part": "OfThisSession", "depth": 4})
        anew = type("OfThisSession", (kind,), {"__module__": __name__})  # the notebook's cell, run again
        register(anew)
        assert type(part(kind, "OfThisSession")) is anew
        with pytest.raises(ConfigError, match="a file cannot name OfThisSession"):
            plain(anew())
    finally:
        kind.table().forget("OfThisSession")
    assert "OfThisSession" not in kind.table()
    with pytest.raises(ConfigError, match="no text names"):
        text_of(anew())


@each_kind
@pytest.mark.parametrize("value", [5, None, b"x", [], object(), Part, "", ":", "(", "a b", {}, {"part": 5},
                                   {"part": "os:system"},
                                   {"part": "no.such.module:X"}, {"part": "builtins:dict"}, {"part": ":"}],
                                   ids=lambda value: repr(value).partition(" at 0x")[0])
def test_what_is_no_part_is_refused(kind: type[Part], value: Any) -> None:
    if kind.from_text.__func__ is not Part.from_text.__func__ and isinstance(value, str):  # type: ignore[attr-defined]
        pytest.skip("this kind understands other texts too")
    with pytest.raises(RegardError) as caught:
        part(kind, value)
    assert caught.value.hint


def test_a_near_name_is_told() -> None:
    for cls in CLASSES:
        with pytest.raises(ConfigError, match="did you mean"):
            cls.table()[f"{cls.part_name()}q"]


BROKEN = {"Gone": "no_such_distribution.parts:Gone", "Raises": ".raises:Raises", "Absent": ".fine:Absent",
          "Number": ".fine:NUMBER",
          "Moved": ".fine:Elsewhere", "Fine": ".fine:Fine"}


@pytest.fixture
def distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """One with faults."""
    folder = tmp_path / "faulty"
    folder.mkdir()
    (folder / "__init__.py").write_text(f"PARTS = {BROKEN!r}\nOTHERS = 5\n")
    (folder / "raises.py").write_text("1 / 0\n")
    (folder / "elsewhere.py").write_text("from regard.indexers.chunkers import Chunker\nclass Elsewhere(Chunker): "
                                         "pass\n")
    (folder / "fine.py").write_text("from regard.indexers.chunkers import Chunker\nfrom .elsewhere import "
                                    "Elsewhere\nNUMBER = 5\n"
                                    "class Fine(Chunker):\n    width: int = 3\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield "faulty"
    for name in [name for name in sys.modules if name.partition(".")[0] == "faulty"]:
        del sys.modules[name]


@contextmanager
def listed(place: str) -> Iterator[None]:
    """With another table of chunkers beside those that are installed."""
    def found(*, group: str) -> EntryPoints:
        return EntryPoints([*entry_points(group=group), EntryPoint("acme", place, group)])

    with mock.patch.object(tables, "entry_points", found):
        vars(Chunker.table()).pop("_places", None)
        yield
    vars(Chunker.table()).pop("_places", None)


def test_an_entry_that_cannot_be_imported_is_named_and_the_others_work(distribution: str) -> None:
    with listed(f"{distribution}:PARTS"):
        said = {"Gone": (MissingDependency, "no_such_distribution"), "Raises": (ConfigError, "ZeroDivisionError"),
                "Absent": (ConfigError, "Absent"), "Number": (ConfigError, "is no Chunker"),
                "Moved": (ConfigError, "another place")}
        for name, (kind, words) in said.items():
            with pytest.raises(kind, match=words) as caught:
                part(Chunker, name)
            assert f"{name!r}" in str(caught.value)
            assert caught.value.hint
        assert part(Chunker, "fine:4").width == 4
        assert part(Chunker, "whole") == part(Chunker, {"part": "Whole"})
        assert {"Fine", "Whole", "Gone"} <= set(Chunker.table().names())
        assert "Fine" in str(definitions(Chunker))


def test_a_table_that_is_none_and_a_name_that_two_claim(distribution: str, caplog: pytest.LogCaptureFixture) -> None:
    with listed(f"{distribution}:OTHERS"):
        assert part(Chunker, "whole")
        assert "faulty:OTHERS" in caplog.text
    (Path(importlib.import_module("faulty").__file__
          or "").parent / "twice.py").write_text("PARTS = {'Whole': 'faulty.fine:Fine'}\n")
    with listed("faulty.twice:PARTS"), pytest.raises(ConfigError, match="claimed by") as caught:
        part(Chunker, "whole")
    assert "faulty.fine:Fine" in str(caught.value)
    assert part(Chunker, "whole")


# -- text -----------------------------------------------------------------------------------


class Held(Part):
    group = "tests.held"


@register
class Word(Held):
    text: str = ""
    maybe: str | None = None


@register
class Bag(Held):
    number: float = 0.5
    words: tuple[str, ...] = ()
    table_of: dict[str, int] = {}  # noqa: RUF012 - frozen
    names: set[str] = set()  # noqa: RUF012 - frozen
    inner: Held | None = None
    many: tuple[Held, ...] = ()


odd = st.text(st.sampled_from('ab ,"\\()[]{}=:\n1.-eénulltrue'), max_size=9)
bags = st.recursive(
    st.builds(Word, odd, maybe=st.none() | odd),
    lambda held: st.builds(Bag, st.floats(allow_nan=False), words=st.lists(odd, max_size=2),
                           names=st.sets(odd, max_size=2),
                           table_of=st.dictionaries(odd, st.integers(), max_size=2), inner=st.none() | held,
                           many=st.lists(held, max_size=2)), max_leaves=4)


@given(bags)
def test_any_text_in_any_part_comes_back(one: Held) -> None:
    again = part(Held, text_of(one))
    assert again == one
    assert hash(again) == hash(one)
    assert part(Held, yaml.safe_load(yaml.safe_dump(plain(one), allow_unicode=True))) == one
    assert again.fingerprint() == one.fingerprint()


@given(st.text(st.sampled_from('wordbag:,="()\\[]{} 1innertxk'), max_size=30))
def test_a_text_gives_a_part_or_a_typed_error(text: str) -> None:
    with suppress(ConfigError):
        assert isinstance(part(Held, text), Held)


def test_parts_within_parts_without_end_are_refused() -> None:
    deep: dict[str, Any] = {"part": "Word"}
    for _ in range(2000):
        deep = {"part": "Bag", "inner": deep}
    for value in (deep, "bag:inner=(" * 400 + "word" + ")" * 400):
        with pytest.raises(ConfigError):
            part(Held, value)


def test_a_class_that_cannot_be_a_part_is_refused() -> None:
    """When it is defined: a setting called like what a part has, one without its type, a constructor."""
    for name in ("part", "inputs", "settings", "table", "identity", "fingerprint", "replace", "version", "card",
                 "group"):
        with pytest.raises(ConfigError, match=f"cannot have a setting '{name}'"):
            type("Mine", (Held,), {"__annotations__": {name: int}, name: 1})
    with pytest.raises(ConfigError, match="'text' without its type"):
        type("Mine", (Word,), {"text": "x"})
    with pytest.raises(ConfigError, match="constructor"):
        type("Mine", (Held,), {"__init__": lambda self: None})
    assert type("Mine", (Held,),
                {"__annotations__": {"first": int}, "first": 1})().first == 1  # type: ignore[attr-defined]


def test_the_order_of_a_mapping_is_no_matter() -> None:
    one, other = Bag(table_of={"a": 1, "b": 2}), Bag(table_of={"b": 2, "a": 1})
    assert one == other
    assert hash(one) == hash(other)
    assert one.fingerprint() == other.fingerprint()
    with pytest.raises(TypeError):
        one.table_of["a"] = 2
