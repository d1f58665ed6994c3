"""What is wrong with a plan, as far as can be seen before a model is loaded."""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import RegardError
from .plan import Plan, bodies
from .stage import Need, Problem
from .stores import open_store


def problems(plan: Plan, where: str) -> list[Problem]:
    """Everything that is wrong with the pipeline called ``where``; empty when it can run."""
    found = [] if plan.outputs else [Problem("the pipeline has no output", where, "call p.output(name=wire)")]
    return [*found, *_within(plan, "")]


def _within(plan: Plan, prefix: str) -> Iterator[Problem]:
    """Of a plan and the plans that its stages hold, whose stages are named by their path."""
    yield from _unused(plan, prefix)
    for name, node in plan.nodes.items():
        found = [*node.stage.check(), *_without_text(plan, name), *node.stage.check_inputs(plan.above(name))]
        for problem in found:
            yield Problem(problem.what, problem.where or f"stage {prefix + name!r}", problem.hint, problem.fatal)
        for _, body in bodies(node.stage):
            yield from _within(body, f"{prefix}{name}/")


def _unused(plan: Plan, prefix: str) -> Iterator[Problem]:
    used = {ref for node in plan.nodes.values() for ref, _ in node.sources} | set(plan.outputs.values())
    names = {ref.node for ref in used}
    for name in (*plan.inputs, *plan.nodes):
        if name not in names:
            kind = "input" if name in plan.inputs else "stage"
            yield Problem("nothing uses what it gives", f"{kind} {prefix + name!r}",
                          "connect it, name it in p.output(...), or remove it", fatal=False)
            continue
        for port in plan.nodes[name].stage.ports().outputs if name in plan.nodes else ():
            if not any(ref.node == name and ref.output in ("", port.name) for ref in used):
                yield Problem(f"nothing uses its output {port.name!r}", f"stage {prefix + name!r}",
                              "connect it, or leave it so",
                              fatal=False)


def _without_text(plan: Plan, name: str) -> Iterator[Problem]:
    """A stage that reads text needs a store that has it."""
    if Need.TEXT not in plan.nodes[name].stage.needs:
        return
    for uri in sorted(_stores_above(plan, name)):
        try:
            has_text = open_store(uri).has_text
        except RegardError:
            continue  # the retriever's own check reports an index that cannot be opened
        if not has_text:
            yield Problem(f"it reads passages' text, and {uri} stores none", "",
                          "index again with text, or rerank without text")


def _stores_above(plan: Plan, name: str) -> set[str]:
    """The stores that rankings which reach ``name`` point into."""
    uris, seen = set(), {name}
    waiting = [ref.node for ref, _ in plan.nodes[name].sources]
    while waiting:
        source = waiting.pop()
        node = plan.nodes.get(source)
        if node is None or source in seen:
            continue
        seen.add(source)
        if node.stage.store_uri:
            uris.add(node.stage.store_uri)
        else:
            waiting += [ref.node for ref, _ in node.sources]
    return uris
