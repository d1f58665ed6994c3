"""Small faults in a module's syntax tree: each a mutant that some test should notice."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

SWAPPED: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
    ast.And: ast.Or,
    ast.Or: ast.And, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
}
LEFT = {"where", "hint", "strict"}  # keyword arguments that are words for the user, or assert what holds anyway
NOT_RUN = {"annotation", "returns", "decorator_list", "type_params"}  # fields whose change changes no run, or every run


def alternatives(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand in the place of ``node``."""
    def swapped(op: ast.AST) -> ast.AST:
        return SWAPPED[type(op)]()

    match node:
        case ast.Compare(left, ops, right):
            for i, op in enumerate(ops):
                yield ast.Compare(left, [*ops[:i], swapped(op), *ops[i + 1:]], right)
        case ast.BinOp(left, op, right) if type(op) in SWAPPED and not (_text(left) or _text(right)):
            yield ast.BinOp(left, swapped(op), right)
        case ast.BoolOp(op, values):
            yield ast.BoolOp(swapped(op), values)
        case ast.UnaryOp(ast.Not() | ast.USub(), operand):
            yield operand
        case ast.AugAssign(target, op, value):
            yield ast.Pass()
            if type(op) in SWAPPED:
                yield ast.AugAssign(target, swapped(op), value)
        case ast.Constant(bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(int() as value):
            yield from map(ast.Constant, [value + 1, value - 1] if value else [1])
        case ast.Constant(float() as value):
            yield ast.Constant(value * 2 or 1.0)
        case ast.Slice(lower, upper, step):
            if upper and not isinstance(upper, ast.Constant):
                yield ast.Slice(lower, ast.BinOp(upper, ast.Add(), ast.Constant(1)), step)
            if lower and not isinstance(lower, ast.Constant):
                yield ast.Slice(ast.BinOp(lower, ast.Add(), ast.Constant(1)), upper, step)
        case ast.Return(value) if value and not isinstance(value, ast.Constant):
            yield ast.Return(ast.Constant(None))
        case ast.Expr(ast.Call(func)) if not ast.unparse(func).startswith("log."):
            yield ast.Pass()
        case ast.Raise() | ast.Continue() | ast.Break() | ast.Delete():
            yield ast.Pass()
        case ast.Assign([ast.Attribute() | ast.Subscript()]):
            yield ast.Pass()
        case ast.If(test, body, orelse) if isinstance(test, ast.Name | ast.Attribute | ast.Call):
            yield ast.If(ast.UnaryOp(ast.Not(), test), body, orelse)
        case ast.IfExp(test, body, orelse):
            yield ast.IfExp(test, orelse, body)
        case ast.Call(func, arguments, keywords):
            for word in keywords:
                if word.arg not in {None, *LEFT}:
                    yield ast.Call(func, arguments, [other for other in keywords if other is not word])
        case ast.comprehension(target, source, conditions, is_async):
            for condition in conditions:
                yield ast.comprehension(target, source, [other for other in conditions if other is not condition],
                                        is_async)


def _text(node: ast.AST) -> bool:
    """Strings take only "+", and paths only "/": any other operator would fail at once."""
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


@dataclass(frozen=True, slots=True)
class Mutant:
    """``name`` says where and what, without line numbers, so that it outlives other changes to the file."""

    path: str
    line: int
    name: str
    make: Callable[[], ast.Module]


def mutants_of(path: str, source: str) -> Iterator[Mutant]:
    tree = ast.parse(source)
    seen: Counter[str] = Counter()
    for scope, line, node, put in _places(tree, [], 1):
        for other in alternatives(node):
            name = f"{path} {scope}: {_shown(node, other)} => {_shown(other, node)}"
            seen[name] += 1
            yield Mutant(path, line, name + (f" #{seen[name]}" if seen[name] > 1 else ""), _maker(tree, put, other))


def _maker(tree: ast.Module, put: Callable[[ast.AST], None], other: ast.AST) -> Callable[[], ast.Module]:
    def make() -> ast.Module:
        put(other)
        return ast.fix_missing_locations(tree)
    return make


def _places(node: ast.AST, scope: list[str], line: int) -> Iterator[tuple[str, int, ast.AST,
                                                                          Callable[[ast.AST], None]]]:
    """Every node below ``node`` with its scope, its line and what puts another in its place; not words, types or error
    messages."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        scope = [*scope, node.name]
    for field, value in ast.iter_fields(node):
        if field in NOT_RUN or (field == "value" and isinstance(node, ast.keyword) and node.arg in LEFT):
            continue
        holder, keys = (value, range(len(value))) if isinstance(value, list) else (vars(node), [field])
        for key in keys:
            child = holder[key]
            if isinstance(child, ast.AST):
                here = getattr(child, "lineno", line)
                yield ".".join(scope), here, child, lambda other, holder=holder, key=key: holder.__setitem__(key, other)
                if not isinstance(child, ast.Raise | ast.JoinedStr):
                    yield from _places(child, scope, here)


def _shown(node: ast.AST, beside: ast.AST) -> str:
    """One line of source; of a block only its head."""
    if isinstance(node, ast.If):
        return f"if {ast.unparse(node.test)}"
    text = " ".join(ast.unparse(ast.fix_missing_locations(node)).split())
    return text if len(text) <= 160 or isinstance(beside, ast.Pass) else f"{text[:80]} ... {text[-79:]}"
