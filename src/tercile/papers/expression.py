"""Limits written as arithmetic: parsed into a tree of allowed nodes, never handed to the interpreter."""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

LONGEST = 200
FUNCTIONS = {"min": min, "max": max}


@dataclass(frozen=True)
class Expression:
    """Arithmetic over names of measured quantities: numbers, names, ``+ - * /``, brackets, ``min``, ``max``.

    Parameters
    ----------
    text
        At most 200 characters, for example ``"0.9 * min(minmax_error, percentile_error)"``.

    Raises
    ------
    ValueError
        For anything else: attributes, subscripts, powers, comparisons, strings, other calls.

    Notes
    -----
    Cost: one parse when made, one walk of the tree for each value.

    >>> limit = Expression("0.9 * max(a, b) + 1")
    >>> sorted(limit.names), limit.value({"a": 10.0, "b": 20.0})
    (['a', 'b'], 19.0)
    """

    text: str
    names: frozenset[str] = field(init=False, repr=False, compare=False)
    _tree: ast.expr = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not self.text.strip():
            raise ValueError(f"expression must be text such as '0.9 * baseline_error', got {self.text!r}")
        if len(self.text) > LONGEST:
            raise ValueError(f"expression must have at most {LONGEST} characters, got {len(self.text)}")
        try:
            tree = ast.parse(self.text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise ValueError(f"expression {self.text!r} is not arithmetic: {error}") from None
        object.__setattr__(self, "names", frozenset(_names(tree, self.text)))
        object.__setattr__(self, "_tree", tree)

    def value(self, quantities: Mapping[str, float]) -> float:
        """The value for these quantities.

        Parameters
        ----------
        quantities
            A finite number for every name in the expression.

        Raises
        ------
        ValueError
            A name is missing, something is divided by zero, or the result is not finite.
        """
        missing = sorted(self.names - set(quantities))
        if missing:
            raise ValueError(
                f"expression {self.text!r} names {', '.join(missing)}, which was not measured; "
                f"measured were {', '.join(sorted(quantities)) or 'none'}"
            )
        try:
            result = _walk(self._tree, quantities)
        except (ZeroDivisionError, OverflowError):
            result = math.nan
        if not math.isfinite(result):
            raise ValueError(f"expression {self.text!r} has no finite value for these quantities")
        return result


def _names(node: ast.expr, text: str) -> set[str]:
    """Names in the tree; refuses every node that is not on the list."""
    match node:
        case ast.Constant(value=int() | float() as number) if type(number) is not bool and math.isfinite(
            number
        ):
            return set()
        case ast.Name(id=name) if name not in FUNCTIONS:
            return {name}
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
            return _names(operand, text)
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div(), right=right):
            return _names(left, text) | _names(right, text)
        case ast.Call(func=ast.Name(id=name), args=[_, _, *_] as args, keywords=[]) if name in FUNCTIONS:
            return set().union(*(_names(argument, text) for argument in args))
    raise ValueError(
        f"expression {text!r} may hold numbers, names of measured quantities, + - * / ( ), min and max of "
        f"two or more; {ast.unparse(node)!r} is none of these"
    )


def _walk(node: ast.expr, quantities: Mapping[str, float]) -> float:
    match node:
        case ast.Constant(value=number):
            return float(number)  # type: ignore[arg-type]
        case ast.Name(id=name):
            return float(quantities[name])
        case ast.UnaryOp(op=op, operand=operand):
            inner = _walk(operand, quantities)
            return -inner if isinstance(op, ast.USub) else inner
        case ast.BinOp(left=left, op=op, right=right):
            a, b = _walk(left, quantities), _walk(right, quantities)
            if isinstance(op, ast.Add):
                return a + b
            if isinstance(op, ast.Sub):
                return a - b
            return a * b if isinstance(op, ast.Mult) else a / b
        case ast.Call(func=ast.Name(id=name), args=args):
            return FUNCTIONS[name](*(_walk(argument, quantities) for argument in args))
    raise AssertionError("unreachable: the tree was checked when it was made")
