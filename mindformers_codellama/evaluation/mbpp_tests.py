"""MBPP's assertions as the checker takes them: a function under test and a `check` that calls it.

The checker's process holds the tests and asks the program's process for values alone (see `judge`). Most tasks fit: plain values in,
plain values out. A few build their inputs of classes that the program itself defines (`root = Node(1)`). Their set-up and the calls are
then appended to the program, numbered, and the checker asks for the value of a call by its number; what is expected stays with the checker.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

CALL = "codellama_call_number"
"""Name of the function that is appended to the program."""


class TestsError(Exception):
    """Code or tests that cannot be used."""

    __test__ = False


@dataclass(frozen=True)
class JudgedTests:
    """What the checker is given."""

    entry_point: str
    test: str
    """Defines `check(candidate)`."""
    tail: str
    """Appended to the program; mostly empty."""


def judged_tests(code: str, setup: Sequence[str], tests: Sequence[str]) -> JudgedTests:
    """Tests of a task.

    Args:
        code: the right program; it tells which names a program defines.
        setup: imports and statements before the tests.
        tests: assertions.

    Raises:
        TestsError: no Python, or no call of a function that the code defines.
    """
    defined = defined_names(parsed("code", code))
    trees = [parsed(f"test_list[{at}]", test) for at, test in enumerate(tests)]
    before = [parsed("test_setup_code", part) for part in setup if part.strip()]
    name = next((name for tree in trees for name in _called(tree, defined)), "")
    if not name:
        raise TestsError("test_list calls no function that the code defines")
    own = defined - {name}
    needs_program = any(_names(tree) & defined for tree in before) or any(_names(tree) & own for tree in trees)
    if not needs_program:
        return JudgedTests(name, _check(name, [*(ast.unparse(tree) for tree in before), *(ast.unparse(tree) for tree in trees)]), "")
    calls = _Numbered(defined)
    asked = [ast.unparse(ast.fix_missing_locations(calls.visit(tree))) for tree in trees]
    imports = [ast.unparse(tree) for tree in before if not _names(tree) & defined]
    lines = [*(ast.unparse(tree) for tree in before), f"def {CALL}(number):"]
    lines += [f"    if number == {number}:\n        return {call}" for number, call in enumerate(calls.found)]
    return JudgedTests(CALL, _check(CALL, [*imports, *asked]), "\n".join(lines) + "\n")


def defined_names(tree: ast.Module) -> set[str]:
    """Functions, classes and variables of a module's top level."""
    found: set[str] = set()
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return found


def parsed(where: str, text: str) -> ast.Module:
    """A text as Python.

    Raises:
        TestsError: it is none.
    """
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError) as error:
        raise TestsError(f"{where} is no Python: {error}") from error


def _called(tree: ast.AST, defined: set[str]) -> Iterator[str]:
    """Defined names that are called, in outer calls first."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in defined:
            yield node.func.id


def _names(tree: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}


def _check(name: str, statements: Sequence[str]) -> str:
    """A module whose `check` runs the statements one by one; a function of the program may be called `check` itself."""
    return (
        f"STATEMENTS = {list(statements)!r}\n\n\n"
        "def check(candidate):\n"
        f"    scope = {{'__name__': 'tests', {name!r}: candidate}}\n"
        "    for statement in STATEMENTS:\n"
        "        exec(statement, scope)\n"
    )


class _Numbered(ast.NodeTransformer):
    """Puts `CALL(number)` in the place of each outermost call of a defined name."""

    def __init__(self, defined: set[str]) -> None:
        self._defined = defined
        self.found: list[str] = []

    def visit_Call(self, node: ast.Call) -> ast.AST:  # noqa: N802 - ast's name
        """A call that is asked of the program, or one whose parts may be."""
        if not (isinstance(node.func, ast.Name) and node.func.id in self._defined):
            return self.generic_visit(node)
        self.found.append(ast.unparse(node))
        return ast.Call(ast.Name(CALL, ast.Load()), [ast.Constant(len(self.found) - 1)], [])
