"""Sugar over the same graph: ``BM25(index) >> CrossEncoder()``, ``Fuse()(BM25(index), Dense(index)) >> Reader()``.

What stands on the left feeds the ports of the stage on the right by their types: the last output where it fits, and
what a pipeline is given (a query) elsewhere. Outputs are called ``passages``, ``answer``, or by their type.
"""

from __future__ import annotations

from typing import Any

from ..errors import PipelineError
from .draft import Draft, as_plan, as_stage
from .plan import Plan, Ref
from .ports import meets, type_name
from .stage import Stage

_CALLED = {"ranking": "passages"}


def then(plan: Plan, following: Any) -> Plan:
    """``plan`` with ``following`` (a stage, or an annotated function) after its outputs."""
    stage = following if isinstance(following, Stage) else as_stage(following, "pipeline")
    draft = Draft("pipeline", plan)
    last = list(plan.outputs.values())
    draft.outputs.clear()
    return _ended(draft, stage, last)


def together(stage: Stage, plans: list[Any]) -> Plan:
    """``stage`` fed by each of ``plans`` (stages, pipelines), which share what they are given."""
    draft = Draft("pipeline")
    outputs: list[Ref] = []
    for one in plans:
        outputs += _included(draft, as_plan(one))
    return _ended(draft, stage, outputs)


def _included(draft: Draft, plan: Plan) -> list[Ref]:
    """Add the inputs and stages of ``plan``; where its outputs are now."""
    names: dict[str, str] = {}
    for name, kind in plan.inputs.items():
        same = next((known for known, held in draft.inputs.items() if held == kind), None)
        names[name] = same if same is not None else draft.input(kind, None if name in draft.inputs else name).node
    for name, node in plan.nodes.items():
        named = {port.name: Ref(names[ref.node], ref.output) for ref, port in node.sources if not port.variadic}
        rest = [Ref(names[ref.node], ref.output) for ref, port in node.sources if port.variadic]
        taken = name in draft.nodes or name in draft.inputs
        positional = [*named.values(), *rest] if rest else []
        (made, *_) = draft.add(node.stage, positional, {} if rest else named, None if taken else name)
        names[name] = made.node
    return [Ref(names[ref.node], ref.output) for ref in plan.outputs.values()]


def _ended(draft: Draft, stage: Stage, last: list[Ref]) -> Plan:
    """Feed ``stage``, and make its outputs the plan's."""
    refs: list[Ref] = []
    left = list(last)
    for port in stage.ports().inputs:
        if port.variadic:
            refs += [ref for ref in left if meets(draft.plan().type_of(ref), port.type)]
            continue
        known = [*left, *(Ref(name) for name in draft.inputs)]
        fits = next((ref for ref in known if meets(draft.plan().type_of(ref), port.type)), None)
        if fits is None and port.optional:
            continue
        if fits is None and not last:
            fits = draft.input(port.type, port.name)
        if fits is None:
            raise PipelineError(f"nothing before it gives what port {port.name!r} of {type(stage).__name__} takes, "
                                f"Batch[{type_name(port.type)}]", where="pipeline",
                                hint="build it with Pipeline(), input and add")
        refs.append(fits)
        if fits in left and len(left) > 1:
            left.remove(fits)
    made = draft.add(stage, refs, {})
    for ref, port in zip(made, stage.ports().outputs, strict=True):
        draft.output(_CALLED.get(port.name, port.name), ref)
    return draft.plan()
