"""What the names of a Python text stand for: the language's words, functions of the text, and whole numbers."""

from __future__ import annotations

import ast as python_ast
import collections
import dataclasses
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import NamedTuple

from jaxprl.dsl.language import Language
from jaxprl.errors import UserError

MOST = 10**8
"""Counts of repetitions, and the numbers that they are computed from, have a smaller absolute value."""


class PythonError(UserError):
    """The Python text is not a program. The message names the line.

    Attributes:
      reason: a short name of what is wrong, by which such texts can be counted.
    """

    def __init__(self, reason: str, message: str, line: int | None = None):
        super().__init__(f"line {line}: {message}" if line else message)
        self.reason = reason


def parsed(source: str) -> python_ast.Module:
    """Parse a text by Python's own parser.

    Raises:
      PythonError: the text is not Python ("python syntax").
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "invalid escape sequence" is not ours to report
            return python_ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None)
        what = getattr(error, "msg", str(error)) or "too deep to parse"
        raise PythonError("python syntax", f"not Python: {what}", line) from None


def functions_of(nodes: Iterable[python_ast.stmt]) -> list[python_ast.FunctionDef]:
    """Return the functions that are defined directly among these statements."""
    return [node for node in nodes if isinstance(node, python_ast.FunctionDef)]


def called_names(functions: Iterable[python_ast.FunctionDef]) -> set[str]:
    """Return the names that functions call."""
    calls = (node for function in functions for node in python_ast.walk(function) if isinstance(node, python_ast.Call))
    return {call.func.id for call in calls if isinstance(call.func, python_ast.Name)}


def is_stub(function: python_ast.FunctionDef, *, constants: bool = False) -> bool:
    """Return whether a function only says that it exists: its body is `pass`, `...` or `raise NotImplementedError`.

    Args:
      function: the function.
      constants: whether a body that returns a constant, as in `return False`, counts as one, too.
    """

    def nothing(node: python_ast.stmt) -> bool:
        match node:
            case python_ast.Pass() | python_ast.Expr(value=python_ast.Constant()) | python_ast.Return(value=None):
                return True
            case python_ast.Expr(value=python_ast.Name(id="S")):  # the S of prompts, which stands for statements
                return True
            case python_ast.Raise(exc=python_ast.Name(id=name) | python_ast.Call(func=python_ast.Name(id=name))):
                return name == "NotImplementedError"
            case python_ast.Return(value=python_ast.Constant()):
                return constants
        return False

    return all(map(nothing, function.body))


def bindings(nodes: Iterable[python_ast.AST]) -> Iterator[tuple[str, python_ast.AST]]:
    """Yield the names that statements bind, and where, once for each binding. Inner functions are their own scopes."""
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        match node:
            case python_ast.FunctionDef(name=name) | python_ast.AsyncFunctionDef(name=name):
                yield name, node
                continue
            case python_ast.ClassDef(name=name):
                yield name, node
                continue
            case python_ast.Name(id=name, ctx=python_ast.Store() | python_ast.Del()) | python_ast.arg(arg=name):
                yield name, node
            case python_ast.alias(name=name, asname=other):
                yield other or name.partition(".")[0], node
        waiting.extend(python_ast.iter_child_nodes(node))


def _check_words(nodes: Iterable[python_ast.AST], words: Set[str], *, lent: bool = False) -> None:
    """Raise PythonError if statements give a word of the language another meaning.

    A stub is no other meaning. In a block that lends functions to another one (`lent`), neither is a function that
    returns a constant: that is how a test stands in for the world.
    """
    for name, node in bindings(nodes):
        match node:
            case python_ast.FunctionDef() if is_stub(node, constants=lent):
                continue
            case python_ast.alias(name=imported, asname=other) if other in (None, imported):
                continue
        if name in words or name == "range":
            line = getattr(node, "lineno", None)
            raise PythonError("redefinition", f"{name} has a meaning and is given another meaning", line)


class Function(NamedTuple):
    """A function that a program may call."""

    node: python_ast.FunctionDef
    scope: Names | None
    """The names around its definition; None for those of the modules."""


@dataclasses.dataclass(frozen=True)
class Names:
    """The functions and the whole numbers that a part of a program's text can refer to."""

    functions: Mapping[str, Function]
    """Functions by name. Words of the language are left out: functions of these names are stubs."""
    constants: Mapping[str, int]
    """The names that are assigned once, to a whole number."""
    words: Set[str]
    """The words of the language."""
    disputed: Set[str] = frozenset()
    """Functions of the program's own module that a later module defines differently."""

    @classmethod
    def of(cls, modules: Sequence[python_ast.Module], main: int, language: Language) -> Names:
        """Collect the names of several modules.

        What the program's own module defines counts first, and otherwise what a later module defines. A stub counts
        only if nothing else does.

        Args:
          modules: the modules.
          main: index of the module with the program.
          language: the language, whose words no module may give another meaning. Modules that define a `run` of their
            own are excepted: they are drafts of the program.

        Raises:
          PythonError: a module gives a word another meaning ("redefinition").
        """
        words = language_words(language)
        found: dict[str, python_ast.FunctionDef] = {}
        for index, module in enumerate(modules):
            own = {function.name: function for function in functions_of(module.body)}
            if index == main or "run" not in own:
                _check_words(module.body, words, lent=index != main)
            for name in own.keys() - words - ({"run"} if index != main else set()):
                if name not in found or not is_stub(own[name], constants=index > main):
                    found[name] = own[name]
        program = {f.name: f for f in functions_of(modules[main].body) if f.name not in words and not is_stub(f)}
        disputed = {name for name, f in program.items() if _differ(found[name], f)}
        bound = {name for name, _ in bindings(modules[main].body)}
        constants: dict[str, int] = {}
        for index, module in enumerate(modules):
            lent = _constants(module, constants)
            constants |= {name: value for name, value in lent.items() if index == main or name not in bound}
        functions = {name: Function(node, None) for name, node in {**found, **program}.items()}
        return cls(functions, constants, words, disputed)

    def inside(self, function: python_ast.FunctionDef, arguments: Mapping[str, int]) -> Names:
        """Return the names as the body of a function sees them, where its own names hide those outside.

        Args:
          function: the function, which is defined where these names are known.
          arguments: the values of its parameters. A parameter that is bound again has no fixed value.

        Raises:
          PythonError: the function gives a word of the language another meaning ("redefinition").
        """
        scope = [function.args, *function.body]
        _check_words(scope, self.words)
        local = collections.Counter(name for name, _ in bindings(scope))
        inner = [each for each in functions_of(function.body) if each.name not in self.words]
        fixed = {name: value for name, value in arguments.items() if local[name] == 1}
        constants = {name: value for name, value in self.constants.items() if name not in local} | fixed
        functions = self.functions
        if not functions.keys().isdisjoint(local):
            functions = {name: each for name, each in functions.items() if name not in local}
        if not inner:
            return dataclasses.replace(self, functions=functions, constants=constants)
        known = dict(functions)
        names = dataclasses.replace(self, functions=known, constants=constants)
        known |= {each.name: Function(each, names) for each in inner}
        return names

    def is_known(self, function: python_ast.FunctionDef) -> bool:
        """Return whether a function inside of another one is a stub of a word, or the one that its name stands for."""
        known = self.functions.get(function.name)
        return function.name in self.words or (known is not None and known.node is function)

    def binds(self, name: str) -> bool:
        """Return whether a name stands for a function or a number."""
        return name in self.functions or name in self.constants

    def only_calls(self, name: str, other: str) -> bool:
        """Return whether the function of a name does nothing but call the function of another one."""
        match self.functions[name].node.body if name in self.functions else []:
            case [python_ast.Expr(value=python_ast.Call(func=python_ast.Name(id=called), args=[], keywords=[]))]:
                return called == other
        return False

    def assigned(self, name: str, value: int) -> Names:
        """Return the names after an assignment."""
        return dataclasses.replace(self, constants={**self.constants, name: value})


def _differ(a: python_ast.FunctionDef, b: python_ast.FunctionDef) -> bool:
    """Return whether two functions have different texts, comments and blanks aside."""
    if a is b:
        return False
    try:
        return python_ast.dump(a) != python_ast.dump(b)
    except (ValueError, RecursionError):  # very long integers have no text
        return True


def language_words(language: Language) -> frozenset[str]:
    """Return the names that mean an action or a perception."""
    return frozenset(language.actions) | {text.split()[0] for text in language.perceptions}


def assignment(node: python_ast.stmt) -> tuple[str, python_ast.expr] | None:
    """Return the name and the value of `name = value` or `name: int = value`, or None for another statement."""
    match node:
        case python_ast.Assign(targets=[python_ast.Name(id=name)], value=value):
            return name, value
        case python_ast.AnnAssign(target=python_ast.Name(id=name), value=python_ast.expr() as value):
            return name, value
    return None


def whole_number(node: python_ast.expr, constants: Mapping[str, int]) -> int | None:
    """Return the value of an expression of whole numbers, `constants` and + - * // % **, or None for another one.

    The value of every part of it has to be below `MOST`.
    """
    value: int | None = None
    match node:
        case python_ast.Constant(value=int(number)) if not isinstance(number, bool):
            value = number
        case python_ast.Name(id=name):
            value = constants.get(name)
        case python_ast.UnaryOp(op=python_ast.USub() | python_ast.UAdd() as sign, operand=operand):
            inner = whole_number(operand, constants)
            value = -inner if inner is not None and isinstance(sign, python_ast.USub) else inner
        case python_ast.BinOp(left=left, op=operator, right=right):
            a, b = whole_number(left, constants), whole_number(right, constants)
            value = None if a is None or b is None else _computed(a, operator, b)
    return value if value is not None and abs(value) < MOST else None


def _computed(a: int, operator: python_ast.operator, b: int) -> int | None:
    """Return the value of `a operator b`, or None if it has none that is a whole number of bounded size."""
    match operator:
        case python_ast.Add():
            return a + b
        case python_ast.Sub():
            return a - b
        case python_ast.Mult():
            return a * b
        case python_ast.FloorDiv() if b:
            return a // b
        case python_ast.Mod() if b:
            return a % b
        case python_ast.Pow() if 0 <= b < 32:  # 2 ** 27 exceeds MOST
            return a**b
    return None


def _constants(module: python_ast.Module, known: Mapping[str, int]) -> dict[str, int]:
    """Return the names that a module assigns once, to a whole number."""
    bound = collections.Counter(name for name, _ in bindings(module.body))
    found: dict[str, int] = {}
    for node in module.body:
        if pair := assignment(node):
            name, expression = pair
            value = whole_number(expression, {**known, **found})
            if value is not None and bound[name] == 1:
                found[name] = value
    return found
