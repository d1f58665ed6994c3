"""A stage's ports, read from the annotations of its ``run``, and the one place that knows whether a type meets a port.

A port carries a batch of anything: a noun, ``list[str]``, a union, a protocol.
"""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import EllipsisType, NoneType, SimpleNamespace, UnionType
from typing import Annotated, Any, Protocol, TypeVar, Union, get_args, get_origin, get_type_hints

from ..errors import PipelineError
from ..nouns import Batch


@dataclass(frozen=True, slots=True)
class Port:
    """One input or output of a stage. ``type`` is what the batch holds; a variadic port takes any number of batches."""

    name: str
    type: Any
    optional: bool = False
    variadic: bool = False


@dataclass(frozen=True, slots=True)
class Ports:
    """What a stage takes and gives. ``bundle`` is the ``NamedTuple`` class that several outputs come in; None for one
    output."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    bundle: type[tuple[Any, ...]] | None = None


def signature(stage: type) -> Ports:
    """Read the ports from ``run``'s annotations. Raises ``PipelineError`` when they are not ``Batch[...]``."""
    return _signature(stage)


@functools.cache
def _signature(stage: Any) -> Ports:
    run = getattr(stage, "run", None)
    where = f"{stage.__module__}.{stage.__qualname__}.run"
    if run is None:
        raise PipelineError(f"{stage.__qualname__} has no method run", where=where,
                            hint="a stage defines run(...) -> Batch[...]")
    skipped = 2 if stage.opens() else 1  # self, and what it has opened
    return ports_of(run, list(inspect.signature(run).parameters.values())[skipped:], where)


def ports_of(run: Callable[..., Any], parameters: Sequence[inspect.Parameter], where: str) -> Ports:
    """The ports that ``run``'s ``parameters`` and what it returns are annotated with."""
    hints = _hints(run, [parameter.name for parameter in parameters], where)
    inputs = []
    for parameter in parameters:
        element, optional = _element(hints.get(parameter.name), where, parameter.name)
        inputs.append(Port(parameter.name, element, optional or parameter.default is not inspect.Parameter.empty,
                           parameter.kind is inspect.Parameter.VAR_POSITIONAL))
    if not inputs:
        raise PipelineError("run takes no batch", where=where,
                            hint="a stage has at least one input: run(self, queries: Batch[Query])")
    given = hints.get("return")
    if isinstance(given, type) and issubclass(given, tuple) and hasattr(given, "_fields"):
        fields = get_type_hints(given)
        return Ports(tuple(inputs), tuple(Port(name, _element(fields[name], where, name)[0]) for name in given._fields),
                     given)
    element, _ = _element(given, where, "return")
    return Ports(tuple(inputs), (Port(type_name(element).lower(), element),))


def _hints(run: Callable[..., Any], names: Sequence[str], where: str) -> dict[str, Any]:
    """The annotations of these parameters and of what is returned; the others need not be importable."""
    found = inspect.unwrap(run)
    wanted = {name: kind for name, kind in found.__annotations__.items() if name in (*names, "return")}
    try:
        return get_type_hints(SimpleNamespace(__annotations__=wanted), found.__globals__, include_extras=True)
    except (NameError, TypeError) as error:
        raise PipelineError(f"the annotations cannot be read: {error}", where=where,
                            hint="import what they name at the top of the module, not under TYPE_CHECKING") from None


def _element(annotation: Any, where: str, name: str) -> tuple[Any, bool]:
    """``Batch[T]`` -> (T, False); ``Batch[T] | None`` -> (T, True)."""
    if get_origin(annotation) in (Union, UnionType):
        rest = [a for a in get_args(annotation) if a is not NoneType]
        if len(rest) == 1:
            return _element(rest[0], where, name)[0], True
    if get_origin(annotation) is not Batch:
        raise PipelineError(f"{name!r} is annotated {annotation!r}, not Batch[...]", where=where,
                            hint="a port carries a batch: annotate it Batch[Query], Batch[Ranking], ...")
    (element,) = get_args(annotation)
    return element, False


# -- types ------------------------------------------------------------------------------


def type_name(kind: Any) -> str:
    """``Query``, ``list[str]``, ``Query | Answer``: how messages write a type."""
    kind = _bare(kind)
    if _is_union(kind):
        return " | ".join(type_name(part) for part in get_args(kind))
    arguments = ", ".join("..." if part is ... else type_name(part) for part in get_args(kind))
    name = getattr(get_origin(kind) or kind, "__name__", None) or str(kind)
    return f"{name}[{arguments}]" if arguments else ("None" if kind is NoneType else name)


def said(ports: Sequence[Port]) -> str:
    """``queries: Query, *rankings: Ranking``: how messages write what a stage takes."""
    return ", ".join(f"{'*' * port.variadic}{port.name}: {type_name(port.type)}" for port in ports)


def is_type(kind: Any) -> bool:
    """Whether a port can be of it: a class, a generic, a union, ``Any``, a type variable."""
    return kind is Any or isinstance(kind, type | TypeVar) or get_origin(kind) is not None


def meets(given: Any, wanted: Any) -> bool:
    """Whether every value of type ``given`` may enter a port of type ``wanted``. Batches are read only, so arguments
    may be narrower; what is not known (``Any``, a bare ``list``) is let through, as type checkers do."""
    given, wanted = _bare(given), _bare(wanted)
    if given == wanted or wanted in (Any, object) or given is Any:
        return True
    if _is_union(given):
        return all(meets(part, wanted) for part in get_args(given))
    if _is_union(wanted):
        return any(meets(given, part) for part in get_args(wanted))
    inner, outer = get_origin(given) or given, get_origin(wanted) or wanted
    if not (isinstance(inner, type) and isinstance(outer, type)):
        return False
    if not _derives(inner, outer):
        return False
    have, want = get_args(given), get_args(wanted)
    return not have or not want or (inner is not outer and len(have) != len(want)) or _arguments_meet(have, want)


def accepts(wanted: Any, value: Any) -> bool:
    """Whether ``value`` is of type ``wanted``; of a generic only the class is looked at, not what it holds."""
    if type(wanted) is type:
        return isinstance(value, wanted)
    wanted = _bare(wanted)
    if _is_union(wanted):
        return any(accepts(part, value) for part in get_args(wanted))
    kind = get_origin(wanted) or wanted
    if kind is Any or not isinstance(kind, type):  # or a Literal
        return True
    if _is_protocol(kind):
        return all(hasattr(value, member) for member in _members(kind))
    return isinstance(value, kind)


def _bare(kind: Any) -> Any:
    """A type without its wrappings: None's class, what an alias or a new type stands for, a type variable's bound."""
    if kind is None:
        return NoneType
    if get_origin(kind) is Annotated:
        return _bare(get_args(kind)[0])
    if isinstance(kind, TypeVar):
        return functools.reduce(operator.or_, kind.__constraints__) if kind.__constraints__ else _bare(kind.__bound__
                                                                                                       or Any)
    if hasattr(kind, "__supertype__") or hasattr(kind, "__value__"):
        return _bare(getattr(kind, "__supertype__", None) or kind.__value__)
    return dict if isinstance(kind, type) and hasattr(kind, "__total__") else kind  # a TypedDict is a dict when it runs


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, UnionType)


def _arguments_meet(have: tuple[Any, ...], want: tuple[Any, ...]) -> bool:
    if len(want) == 2 and want[1] is ...:  # tuple[X, ...]
        return all(meets(part, want[0]) for part in have if not isinstance(part, EllipsisType))
    return len(have) == len(want) and all(meets(a, b) for a, b in zip(have, want, strict=True))


def _derives(inner: type, outer: type) -> bool:
    if _is_protocol(outer):
        return all(_has(inner, member) for member in _members(outer))
    return issubclass(inner, outer)


def _is_protocol(kind: type) -> bool:
    return bool(getattr(kind, "_is_protocol", False)) and kind is not Protocol


@functools.cache
def _members(protocol: type) -> tuple[str, ...]:
    """What a protocol asks for, by name; types of members are the type checker's business."""
    asked = [c for c in protocol.__mro__ if _is_protocol(c)]
    names = {name for c in asked for name in (*vars(c), *vars(c).get("__annotations__", {}))}
    ours = {n for n in names if not (n.startswith("_abc_") or n in _NOT_MEMBERS)}
    return tuple(sorted(ours))


class _Empty(Protocol): ...


_NOT_MEMBERS = {*vars(_Empty), "__annotations__", "__slots__", "__orig_bases__", "__class_getitem__", "__type_params__",
                "__non_callable_proto_members__", "__protocol_attrs__", "__firstlineno__", "__static_attributes__",
                "__hash__"}


def _has(kind: type, member: str) -> bool:
    return hasattr(kind, member) or any(member in vars(c).get("__annotations__", {}) for c in kind.__mro__)
