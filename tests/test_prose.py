"""Plain words: first words of docstrings, comments beside fields, few relative clauses."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from tests import ROOT

PACKAGES = ("models", "service", "offline", "training", "bench", "tests")
# A docstring that begins with one of these names no thing and no action.
FIRST_WORDS = re.compile(
    r"(What|Who|Whom|Whose|Whether|Those|As|Of|For|How|Where|When|Everything|Anything|The same)\b"
)
# Words of relative clauses that stand in place of nouns, and of bookish English.
MANNERED = re.compile(
    r"\b(who|whoever|whom|whose|what|whatever|those|else|anew|lately|meanwhile)\b", re.IGNORECASE
)
MOST_MANNERED = 0.4  # per 100 words of a package's docstrings
RECORDS = ("NamedTuple", "BaseModel", "BaseSettings", "TypedDict")


class Docstring(NamedTuple):
    place: str  # file, line and name
    text: str


@cache
def trees(package: str) -> tuple[tuple[Path, str, ast.Module], ...]:
    """File, text and syntax tree of every module."""
    files = sorted((ROOT / package).rglob("*.py"))
    texts = [file.read_text() for file in files]
    return tuple((file, text, ast.parse(text)) for file, text in zip(files, texts, strict=True))


def docstrings(package: str) -> Iterator[Docstring]:
    for file, _, tree in trees(package):
        for node in ast.walk(tree):
            if isinstance(
                node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
            ) and (text := ast.get_docstring(node)):
                line, name = getattr(node, "lineno", 1), getattr(node, "name", "module")
                yield Docstring(f"{file.relative_to(ROOT)}:{line} {name}", text)


def is_record(node: ast.ClassDef) -> bool:
    """A dataclass, named tuple, typed dictionary, pydantic model or settings class."""
    bases = {ast.unparse(base).split(".")[-1] for base in node.bases}
    decorators = " ".join(map(ast.unparse, node.decorator_list))
    return bool(bases & set(RECORDS)) or "dataclass" in decorators


def fields(node: ast.ClassDef) -> dict[str, ast.AnnAssign]:
    found = [each for each in node.body if isinstance(each, ast.AnnAssign)]
    return {each.target.id: each for each in found if isinstance(each.target, ast.Name)}


def is_documented(field: ast.AnnAssign, lines: list[str]) -> bool:
    """A comment stands behind the field or above it, or pydantic has a description."""
    behind = any("  # " in line for line in lines[field.lineno - 1 : field.end_lineno])
    above = lines[field.lineno - 2].lstrip().startswith("#")
    return behind or above or "description=" in ast.unparse(field)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_docstring_begins_with_a_verb_or_a_noun(package: str) -> None:
    found = [f"{each.place}: {each.text[:60]}" for each in docstrings(package)]
    assert [each for each in found if FIRST_WORDS.match(each.partition(": ")[2])] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_a_docstring_of_a_class_does_not_describe_its_fields(package: str) -> None:
    """A field is described by a comment behind or above it."""
    found = []
    for file, _, tree in trees(package):
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and is_record(node):
                text = ast.get_docstring(node) or ""
                named = [name for name in fields(node) if re.search(rf"(?<!\w){name}`?: ", text)]
                found += [f"{file.relative_to(ROOT)} {node.name}: {named}"] if named else []
    assert found == []


@pytest.mark.parametrize("package", PACKAGES)
def test_every_setting_of_a_process_is_documented_beside_it(package: str) -> None:
    found = [
        f"{file.relative_to(ROOT)} {node.name}.{name}"
        for file, text, tree in trees(package)
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and node.name.endswith(("Settings", "Limits"))
        for name, field in fields(node).items()
        if not is_documented(field, text.splitlines())
    ]
    assert found == []


@pytest.mark.parametrize("package", PACKAGES)
def test_docstrings_name_things_instead_of_describing_them(package: str) -> None:
    texts = [each.text for each in docstrings(package)]
    num_words = sum(len(text.split()) for text in texts)
    num_mannered = sum(len(MANNERED.findall(text)) for text in texts)
    assert 100 * num_mannered / num_words < MOST_MANNERED
