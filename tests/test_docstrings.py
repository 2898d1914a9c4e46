"""Every public name has an example in its docstring, and the examples say what is true."""

from __future__ import annotations

import doctest
import inspect
import re
from functools import cached_property
from types import FunctionType, ModuleType
from typing import Any

import pytest
import torch

import sdeverify as sv
from sdeverify.problems.library import circle_problem

NAMESPACE = {"torch": torch, "sv": sv, "circle_problem": circle_problem}
"""What `sdeverify`'s own docstring says that the examples suppose."""
METHODS = (FunctionType, classmethod, staticmethod, property, cached_property)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def public_objects() -> dict[str, Any]:
    """The public classes and functions by name, those of the public modules included, each once."""
    values = {name: getattr(sv, name) for name in sv.__all__}
    for module in [value for value in values.values() if inspect.ismodule(value)]:
        values |= {f"{module.__name__}.{name}": part for name, part in parts_of(module).items()}
    public: dict[int, tuple[str, Any]] = {}
    for name, value in values.items():
        if _is_documented(value) and not name.rpartition(".")[2].startswith("_"):
            public.setdefault(id(value), (name, value))
    return dict(public.values())


def parts_of(module: ModuleType) -> dict[str, Any]:
    """What a public module lists in `__all__`, or else has written in it."""
    own = {n: part for n, part in vars(module).items() if _is_written_in(part, module.__name__)}
    return {name: vars(module)[name] for name in getattr(module, "__all__", own)}


def _is_written_in(part: object, name: str) -> bool:
    return getattr(part, "__module__", "") == name


def _is_documented(value: object) -> bool:
    return isinstance(value, type | FunctionType) and value.__module__.startswith("sdeverify")


OBJECTS = public_objects()


def examples(name: str, documented: object) -> list[doctest.DocTest]:
    """The examples in an object's own docstring, as one test; none where it has none."""
    finder = doctest.DocTestFinder(recurse=False, exclude_empty=True)
    return [test for test in finder.find(documented, name, globs=dict(NAMESPACE)) if test.examples]


@pytest.mark.parametrize("name", OBJECTS)
def test_the_examples_of_a_public_name_give_what_they_say(name: str) -> None:
    torch.manual_seed(0)
    tests = examples(name, OBJECTS[name])
    assert tests, f"{name} has no example in its docstring"
    report: list[str] = []
    for test in tests:
        doctest.DocTestRunner(optionflags=FLAGS).run(test, out=report.append)
    assert not report, "".join(report)


def test_an_example_that_is_wrong_or_missing_is_seen() -> None:
    def wrong() -> None:
        """>>> 1 + 1
        3
        """

    def without() -> None:
        """Nothing to run."""

    (test,) = examples("wrong", wrong)
    assert doctest.DocTestRunner().run(test, out=lambda text: None).failed == 1
    assert not examples("without", without)


@pytest.mark.parametrize("name", OBJECTS)
def test_every_public_method_says_what_it_is(name: str) -> None:
    documented = OBJECTS[name]
    assert documented.__doc__
    for member, value in vars(documented).items():
        if (
            inspect.isclass(documented)
            and not member.startswith("_")
            and isinstance(value, METHODS)
        ):
            forms = [vars(kind).get(member) for kind in documented.__mro__]
            said = [form.__doc__ for form in forms if isinstance(form, METHODS)]
            assert any(said), f"{name}.{member}"


@pytest.mark.parametrize("name", [n for n, value in OBJECTS.items() if inspect.isfunction(value)])
def test_a_docstring_that_describes_arguments_describes_all(name: str) -> None:
    names = set(inspect.signature(OBJECTS[name]).parameters)
    described = described_arguments(inspect.getdoc(OBJECTS[name]) or "")
    assert not described or described == names


def described_arguments(doc: str) -> set[str]:
    """The names before the colons of an `Args:` section; one line may describe several."""
    section = doc.partition("Args:\n")[2].partition("\n\n")[0]
    entries = re.findall(r"^ {4}(\w[\w, ]*):", section, flags=re.MULTILINE)
    return {name for entry in entries for name in entry.split(", ")}


def test_the_package_says_what_its_examples_suppose() -> None:
    for line in (
        "import torch",
        "import sdeverify as sv",
        "from sdeverify.problems.library import circle_problem",
    ):
        assert f"\n    {line}\n" in str(sv.__doc__)
