"""No code knows a published system by name: systems are compositions written in YAML.

Docstrings and comments may cite the papers; identifiers, string values, file names and data files
of the package may not.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src" / "vedit"
SYSTEM = re.compile(r"kiwi|mive|easyv2v", re.IGNORECASE)


def identifiers(source: str) -> Iterator[tuple[int, str]]:
    """Every name token of a module, with its line."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NAME:
            yield token.start[0], token.string


def string_values(source: str) -> Iterator[tuple[int, str]]:
    """Every string constant that is a value, with its line.

    A string that stands alone as a statement documents what precedes it (module, class, function
    or attribute) and is no value.
    """
    tree = ast.parse(source)
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in documentation:
            if isinstance(node.value, str):
                yield node.lineno, node.value
            elif isinstance(node.value, bytes):
                yield node.lineno, node.value.decode(errors="replace")


def system_names(source: str) -> list[tuple[int, str]]:
    """The places of a module that name a system outside of its documentation."""
    found = [*identifiers(source), *string_values(source)]
    return sorted((line, text) for line, text in found if SYSTEM.search(text))


@pytest.mark.parametrize(
    "source",
    [
        "class KiwiEdit: ...",
        "import mive",
        "build(easyv2v=True)",
        "if name == 'EasyV2V': ...",
        "model = f'{root}/kiwi-edit'",
        "def f(x):\n    '''Doc.'''\n    return {'mive': x}",
        "raw = b'kiwi'",
    ],
)
def test_the_search_finds_a_system_name(source: str) -> None:
    assert system_names(source)


@pytest.mark.parametrize(
    "source",
    [
        '"""Learnable queries (Kiwi-Edit, section 3.2)."""',
        "def f():\n    '''As in MiVE, eq. 4.'''",
        "class A:\n    x: int = 1\n    '''After EasyV2V, section 3.'''",
        "x = 1  # EasyV2V, table 5",
    ],
)
def test_the_search_lets_citations_through(source: str) -> None:
    assert not system_names(source)


def test_no_module_names_a_system() -> None:
    modules = sorted(PACKAGE.rglob("*.py"))
    assert modules
    found = [
        f"{path.relative_to(PACKAGE)}:{line}: {text}"
        for path in modules
        for line, text in system_names(path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


def test_no_file_of_the_package_names_a_system() -> None:
    files = [path for path in PACKAGE.rglob("*") if "__pycache__" not in path.parts]
    named = [path for path in files if SYSTEM.search(str(path.relative_to(PACKAGE)))]
    data = [path for path in files if path.is_file() and path.suffix not in {".py", ".pyc"}]
    named += [path for path in data if SYSTEM.search(path.read_text(errors="replace"))]
    assert not named
