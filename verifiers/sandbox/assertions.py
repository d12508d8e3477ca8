"""Reads the source of a data set's tests: what they check, and which names they leave to others."""

import ast
import builtins
import importlib
import symtable
import sys
import types
from collections.abc import Collection
from dataclasses import dataclass

CHECK = "__rloop_check__"
"""The name under which the tests find what counts their checks."""


@dataclass(frozen=True, slots=True)
class Tests:
    """Tests made ready to run."""

    code: types.CodeType
    """Their code; each assert stands in a `with` block of `CHECK(text, repeated)`."""
    checks: int
    """How many assert statements they have."""


def read(tests: str, helpers: str, of_program: Collection[str]) -> Tests:
    """Tests made ready.

    Args:
        tests: Their source.
        helpers: Source that runs before them.
        of_program: Names that are the program's.

    Raises:
        SyntaxError: For source that is no Python.
        ValueError: When they check nothing, or use names that neither they nor the standard library define: a
            program could define those to its own liking.
    """
    tree = ast.parse(tests)
    counted = _Counted()
    tree = ast.fix_missing_locations(counted.visit(tree))
    if not counted.checks:
        raise ValueError("they hold no assert")
    missing = _undefined(tests, helpers) - set(of_program) - sys.stdlib_module_names
    if missing:
        raise ValueError(
            f"they use {sorted(missing)}, which they do not define; define it in 'helpers', or list it in 'names' "
            "if it is the program's"
        )
    return Tests(compile(tree, "<tests>", "exec"), counted.checks)


class _Counted(ast.NodeTransformer):
    """Puts every assert into a `with` block, and counts them.

    An assert is `repeated` where it may run more than once: in a loop, or in a function that is no test by itself.
    """

    def __init__(self) -> None:
        self.checks = 0
        self._repeated = self._inside = 0

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        """`assert X` becomes `with __rloop_check__("X", repeated): assert X`."""
        self.checks += 1
        text, repeated = ast.Constant(ast.unparse(node.test)[:200]), ast.Constant(bool(self._repeated))
        block = ast.With([ast.withitem(ast.Call(ast.Name(CHECK, ast.Load()), [text, repeated], []), None)], [node])
        return ast.copy_location(block, node)

    def visit_For(self, node: ast.AST) -> ast.AST:
        """A loop."""
        return self._visit(node, repeated=True)

    visit_While = visit_AsyncFor = visit_ClassDef = visit_AsyncFunctionDef = visit_For

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """A function; those that we call are called once."""
        return self._visit(node, repeated=bool(self._inside) or not is_test(node.name))

    def _visit(self, node: ast.AST, repeated: bool) -> ast.AST:
        self._repeated += repeated
        self._inside += 1
        node = self.generic_visit(node)
        self._repeated -= repeated
        self._inside -= 1
        return node


def is_test(name: str) -> bool:
    """Whether a function of this name is called for its checks."""
    return name == "check" or name.startswith("test_")


def _undefined(*sources: str) -> set[str]:
    """Global names that some source uses and none defines."""
    defined, used = set(dir(builtins)), set[str]()
    for source in sources:
        tables = [symtable.symtable(source, "<tests>", "exec")]
        while tables:
            table = tables.pop()
            tables += table.get_children()
            for symbol in table.get_symbols():
                at_top = table.get_type() == "module" or symbol.is_declared_global()
                if at_top and (symbol.is_assigned() or symbol.is_imported()):
                    defined.add(symbol.get_name())
                if symbol.is_referenced() and (symbol.is_global() or at_top):
                    used.add(symbol.get_name())
        for node in ast.walk(ast.parse(source if "*" in source else "")):
            if isinstance(node, ast.ImportFrom) and node.names[0].name == "*" and node.module:
                defined |= set(dir(importlib.import_module(node.module)))
    return {name for name in used - defined if not name.startswith("__")}
