"""Control: stages that hold plans, so that fan-out, choice and repetition stay within a DAG.

A plan is given as a pipeline, a stage, or an annotated function. The same executor runs it: its stages stand in the
trace under the path of the stage that holds them (``hop/2/bm25``), and a batch gives what single queries give.
"""

from __future__ import annotations

import functools
from collections import namedtuple
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field, replace
from typing import Any, NamedTuple

from ..errors import ConfigError, StageError
from ..nouns import Batch, Group, Query, Ranking, State, Verdict
from ..parts import Count, nested
from .draft import Body
from .executor import OpenPlan
from .plan import Plan
from .ports import Port, Ports, meets, type_name
from .scope import Scope
from .stage import Stage

Batches = Sequence[Batch[Any]]


class Control(Stage):
    """What all have: no step of their own in a history, and determinism if all within have it."""

    marks = False

    @property
    def deterministic(self) -> bool:
        return all(one.deterministic for _, one in nested(dict(self.settings())) if isinstance(one, Stage))


class Each(Control):
    """Runs ``body`` over the members of groups: the input called ``over`` (the first, by default) is a ``Group``, the
    others go to all of its members. The members of all queries are one batch. Each output is a ``Group`` again, in the
    members' order.
    """

    body: Body = field(kw_only=False)
    over: str = ""

    def __post_init__(self) -> None:
        if self.over and self.over not in self.body.inputs:
            raise ConfigError(f"the body has no input {self.over!r}", where="Each",
                              hint=f"its inputs: {', '.join(self.body.inputs)}")

    def ports(self) -> Ports:
        given = self.body.ports()
        inputs = tuple(Port(port.name, _group_of(port.type) if port.name == self._over else port.type)
                       for port in given.inputs)
        return _ports(inputs, [Port(port.name, _group_of(port.type)) for port in given.outputs])

    @property
    def _over(self) -> str:
        return self.over or next(iter(self.body.inputs))

    def open(self, scope: Scope, /) -> OpenPlan:
        return OpenPlan(self.body, scope)

    def run(self, body: OpenPlan, *inputs: Batch[Any]) -> Any:
        given = dict(zip(self.body.inputs, inputs, strict=True))
        groups = given[self._over]
        positions = [i for i, group in enumerate(groups) for _ in group]
        flat = {name: Batch(batch[i] for i in positions) for name, batch in given.items() if name != self._over}
        flat[self._over] = Batch(member for group in groups for member in group)
        outputs = body.run(flat, positions=positions)
        return _bundled(self.ports(), [Batch(_regrouped(batch, groups)) for batch in outputs.values()])


def _group_of(kind: Any) -> Any:
    return Group[kind]


def _regrouped(members: Batch[Any], groups: Batch[Group[Any]]) -> Iterator[Group[Any]]:
    rest = iter(members)
    for group in groups:
        yield Group(next(rest) for _ in group)


class OpenRoutes(NamedTuple):
    gate: OpenPlan
    routes: Mapping[str, OpenPlan]


class Choose(Control):
    """Runs each query through the one of ``routes`` that the verdict of ``gate`` names; ``otherwise`` is taken for a
    label without a route.

    Gate and routes are fed by the inputs of their names; all routes give the same types. A route that no query takes
    opens nothing.
    """

    gate: Body = field(kw_only=False)
    routes: Mapping[str, Body] = field(default_factory=dict)
    otherwise: str = ""

    def __post_init__(self) -> None:
        _expect_verdict(self.gate, "Choose")
        if not self.routes:
            raise ConfigError("there are no routes", where="Choose", hint='routes={"easy": BM25(...), "hard": other}')
        if self.otherwise and self.otherwise not in self.routes:
            raise ConfigError(f"there is no route {self.otherwise!r}", where="Choose",
                              hint=f"routes: {', '.join(self.routes)}")
        (first, wanted), *others = ((label, _types(plan)) for label, plan in self.routes.items())
        for label, types in others:
            if len(types) != len(wanted) or not all(meets(a, b) and meets(b, a)
                                                    for a, b in zip(types, wanted, strict=True)):
                raise ConfigError(f"the routes give different types: {label!r} gives {_named(types)}, {first!r} gives "
                                  f"{_named(wanted)}",
                                  where="Choose", hint="end all routes with stages that give the same")
        self.ports()

    def ports(self) -> Ports:
        first = next(iter(self.routes.values()))
        return _ports(_inputs([self.gate, *self.routes.values()], "Choose"), first.ports().outputs)

    def open(self, scope: Scope, /) -> OpenRoutes:
        return OpenRoutes(OpenPlan(self.gate, scope),
                          {label: OpenPlan(plan, scope) for label, plan in self.routes.items()})

    def run(self, opened: OpenRoutes, *inputs: Batch[Any]) -> Any:
        given = {port.name: batch for port, batch in zip(self.ports().inputs, inputs, strict=True)}
        verdicts = _verdicts(opened.gate, self.gate, given, "gate")
        taken: dict[str, list[int]] = {}
        for i, verdict in enumerate(verdicts):
            taken.setdefault(self._route(verdict), []).append(i)
        results: list[list[Any]] = [[None] * len(verdicts) for _ in self.ports().outputs]
        for label, positions in taken.items():
            for result, batch in zip(results, _run_some(opened.routes[label], self.routes[label], given, positions,
                                                        label), strict=True):
                for i, value in zip(positions, batch, strict=True):
                    result[i] = value
        return _bundled(self.ports(), [Batch(result) for result in results])

    def _route(self, verdict: Verdict) -> str:
        label = verdict.label if verdict.label in self.routes else self.otherwise
        if not label:
            raise StageError(f"the gate says {verdict.label!r}, and there is no such route", where="Choose",
                             hint=f"routes: {', '.join(self.routes)}; or name the one that is taken otherwise")
        return label


class OpenLoop(NamedTuple):
    body: OpenPlan
    until: OpenPlan | None


class Loop(Control):
    """Repeats ``body``, a plan from ``State`` to ``State``, over the queries that are not done, at most ``most`` times;
    a query that is done leaves the batch. It is done when the body sets ``state.done``, or when the verdict of
    ``until`` on its state is ``done``.

    ``state.hop`` counts from 1. What begins a state is ``Begin``, and ``Hops`` gives the rankings that it gathered.
    """

    body: Body = field(kw_only=False)
    most: Count = field(kw_only=True)
    until: Body | None = None

    def __post_init__(self) -> None:
        given, made = list(self.body.inputs.values()), _types(self.body)
        if given != [State] or made != [State]:
            raise ConfigError(f"the body goes from {_named(given)} to {_named(made)}, not from State to State",
                              where="Loop",
                              hint="begin it with p.input(State), and end it with a stage that gives the next State")
        if self.until is not None:
            _expect_verdict(self.until, "Loop")
            if list(self.until.inputs.values()) != [State]:
                raise ConfigError(f"until takes {_named(self.until.inputs.values())}, not one State", where="Loop",
                                  hint="def enough(state: State) -> Verdict")

    def ports(self) -> Ports:
        return _ports((Port("state", State),), [Port("state", State)])

    def open(self, scope: Scope, /) -> OpenLoop:
        return OpenLoop(OpenPlan(self.body, scope), None if self.until is None else OpenPlan(self.until, scope))

    def run(self, opened: OpenLoop, states: Batch[State]) -> Batch[State]:
        now = list(states)
        active = [i for i, state in enumerate(now) if not state.done]
        for hop in range(1, self.most + 1):
            if not active:
                break
            (after,) = _run_some(opened.body, self.body, {next(iter(self.body.inputs)): Batch(now)}, active, str(hop))
            for i, state in zip(active, after, strict=True):
                now[i] = replace(state, hop=hop)
            if opened.until is not None and self.until is not None:
                given = {next(iter(self.until.inputs)): Batch(now[i] for i in active)}
                for i, verdict in zip(active, _verdicts(opened.until, self.until, given, f"{hop}/until", active),
                                      strict=True):
                    now[i] = replace(now[i], done=now[i].done or verdict.label == "done")
            active = [i for i in active if not now[i].done]
        return Batch(now)


class Begin(Stage):
    """A query as the state that a loop begins from."""

    def run(self, queries: Batch[Query]) -> Batch[State]:
        return Batch(State(query) for query in queries)


class Hops(Stage):
    """The rankings that a state has gathered, the first hop's first: what ``Fuse`` makes one of."""

    marks = False

    def run(self, states: Batch[State]) -> Batch[Group[Ranking]]:
        return Batch(Group(state.rankings) for state in states)


class OpenCascade(NamedTuple):
    stages: tuple[OpenPlan, ...]
    enough: OpenPlan


class Cascade(Control):
    """Reranks with each of ``stages``, cheap ones first; a query leaves when the verdict of ``enough`` on what it has
    is ``enough``, so the next, dearer one runs only for what the last left undecided.

    Each of ``stages`` is a plan from a query and a ranking to a ranking. ``Margin`` is a rule for ``enough``.
    """

    stages: tuple[Body, ...] = field(kw_only=False)
    enough: Body = field(kw_only=True)

    def __post_init__(self) -> None:
        _expect_verdict(self.enough, "Cascade")
        for plan in self.stages:
            if sorted(map(type_name, plan.inputs.values())) != ["Query", "Ranking"] or _types(plan) != [Ranking]:
                raise ConfigError(f"a stage goes from {_named(plan.inputs.values())} to {_named(_types(plan))}, and "
                                  f"not from a query and a "
                                  "ranking to a ranking", where="Cascade", hint="give rerankers")
        if not self.stages:
            raise ConfigError("there are no stages", where="Cascade", hint="give rerankers, cheap ones first")

    def ports(self) -> Ports:
        return _ports((Port("query", Query), Port("ranking", Ranking)), [Port("ranking", Ranking)])

    def open(self, scope: Scope, /) -> OpenCascade:
        return OpenCascade(tuple(OpenPlan(plan, scope) for plan in self.stages), OpenPlan(self.enough, scope))

    def run(self, opened: OpenCascade, queries: Batch[Query], rankings: Batch[Ranking]) -> Batch[Ranking]:
        now, active = list(rankings), list(range(len(queries)))
        for number, (stage, plan) in enumerate(zip(opened.stages, self.stages, strict=True), 1):
            given = {name: queries if kind is Query else Batch(now) for name, kind in plan.inputs.items()}
            (reranked,) = _run_some(stage, plan, given, active, str(number))
            for i, ranking in zip(active, reranked, strict=True):
                now[i] = ranking
            if number == len(self.stages):
                break
            asked = {name: Batch((queries[i] if kind is Query else now[i]) for i in active)
                     for name, kind in self.enough.inputs.items()}
            verdicts = _verdicts(opened.enough, self.enough, asked, f"{number}/enough", active)
            active = [i for i, verdict in zip(active, verdicts, strict=True) if verdict.label != "enough"]
            if not active:
                break
        return Batch(now)


# -- plans within -----------------------------------------------------------------------


def _types(plan: Plan) -> list[Any]:
    return [port.type for port in plan.ports().outputs]


def _named(types: Any) -> str:
    return " and ".join(map(type_name, types)) or "nothing"


def _expect_verdict(plan: Plan, where: str) -> None:
    if _types(plan) != [Verdict]:
        raise ConfigError(f"the gate gives {_named(_types(plan))}, not one Verdict", where=where,
                          hint="def gate(query: Query) -> Verdict: return Verdict('label')")


def _inputs(plans: Sequence[Plan], where: str) -> tuple[Port, ...]:
    """The inputs of all, by name. Raises ``ConfigError`` where two of one name differ in type."""
    found: dict[str, Any] = {}
    for plan in plans:
        for name, kind in plan.inputs.items():
            if found.setdefault(name, kind) != kind:
                raise ConfigError(f"the input {name!r} is {type_name(found[name])} in one plan and {type_name(kind)} "
                                  f"in another",
                                  where=where, hint="rename one of them")
    return tuple(Port(name, kind) for name, kind in found.items())


def _run_some(
    opened: OpenPlan, plan: Plan, given: Mapping[str, Batch[Any]], positions: Sequence[int], under: str,
) -> list[Batch[Any]]:
    """The outputs of the queries at ``positions``."""
    some = {name: Batch(given[name][i] for i in positions) for name in plan.inputs}
    return list(opened.run(some, under, positions).values())


def _verdicts(
    opened: OpenPlan, plan: Plan, given: Mapping[str, Batch[Any]], under: str, positions: Sequence[int] | None = None,
) -> Batch[Verdict]:
    (verdicts,) = opened.run({name: given[name] for name in plan.inputs}, under, positions).values()
    return verdicts


@functools.cache
def _bundle(names: tuple[str, ...]) -> Any:
    return namedtuple("Outputs", names)


def _ports(inputs: tuple[Port, ...], outputs: Sequence[Port]) -> Ports:
    names = tuple(port.name for port in outputs)
    return Ports(inputs, tuple(outputs), _bundle(names) if len(names) > 1 else None)


def _bundled(ports: Ports, batches: Batches) -> Any:
    return batches[0] if ports.bundle is None else ports.bundle(*batches)
