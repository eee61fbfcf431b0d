"""Parse the Python text of programs, which language models write and people read.

    def run():
        while not markersPresent():
            move()
        putMarker()

The text is parsed by Python's own `ast` module and never evaluated. `Program.to_python` prints it; printing and parsing
are inverses.
"""

from __future__ import annotations

import ast as python_ast
import collections
import contextlib
from collections.abc import Iterator, Mapping, Sequence

from jaxprl.dsl import ast
from jaxprl.dsl.language import Language
from jaxprl.dsl.python_names import (
    MOST,
    Function,
    Names,
    PythonError,
    assignment,
    bindings,
    called_names,
    functions_of,
    is_stub,
    language_words,
    parsed,
    whole_number,
)

_MOST_INLINED = 4096
"""The most statements and conditions that are read in functions other than the program's. Functions that call each
other twice can stand for a text of any length."""


def statement_lines(program: ast.Program) -> list[int]:
    """Return the line of `program.to_python()` on which each statement begins.

    The condition of a statement is on the same line as its beginning.

    Returns:
      One line number per statement, counted from 1, in the order of `ast.statements`.
    """
    lines = program.to_python().splitlines()
    return [number for number, line in enumerate(lines, 1) if number > 1 and line.strip() != "else:"]


def from_python(source: str, language: Language) -> ast.Program:
    """Parse the Python text of a program.

    Understood are `elif`, `and`, `or`, True, False, `while`, and `for ... in range(...)` with whole numbers: literals,
    arithmetic on them, and names that are assigned once to such a number. A call of a function of the text
    stands for that function's body. Comments, docstrings, imports, `pass`, functions that are stubs and a final call
    of the program are ignored.

    Args:
      source: Python text with one function that is named `run`, or else with exactly one function that no other
        function calls.
      language: the language whose actions and perceptions the text may use.

    Returns:
      The program of that function.

    Raises:
      PythonError: the text is not a program. Its `reason` is "python syntax", "no function", "unsupported python",
        "unknown name", "redefinition" (of a word of the language), "recursion", "bad argument", "bad count", "empty
        body" or "too long" (nested more deeply than any program that can be run, or with more calls of functions).

    Example:
      >>> from jaxprl.worlds.karel.world import LANGUAGE
      >>> print(from_python("def run():\\n    for i in range(3):\\n        move()", LANGUAGE))
      DEF run m( REPEAT R=3 r( move r) m)
    """
    return from_modules([parsed(source)], 0, language)


def from_modules(modules: Sequence[python_ast.Module], main: int, language: Language) -> ast.Program:
    """Read the program of a module that may use what other modules define.

    Args:
      modules: the modules. What the program's own module defines counts first, and then what later modules define.
      main: index of the module with the program.
      language: the language of the program.

    Returns:
      The program.

    Raises:
      PythonError: see `from_python`.
    """
    function = program_function(modules[main], language)
    if _has_extras(function):
        raise PythonError("unsupported python", f"{function.name} has decorators or default arguments", function.lineno)
    try:
        names = Names.of(modules, main, language)
        for node in modules[main].body:
            if not _passed_over(node, function.name, names, last=node is modules[main].body[-1]):
                message = f"code outside of {function.name}(): {_source(node)!r}"
                raise PythonError("unsupported python", message, node.lineno)
        return ast.Program(_Reader(language).program(function, names))
    except RecursionError:
        raise PythonError("too long", "nested too deeply", function.lineno) from None


def program_function(module: python_ast.Module, language: Language) -> python_ast.FunctionDef:
    """Return the function of a module that is the program.

    Raises:
      PythonError: there is none, or it is not clear which one ("no function").
    """
    functions = functions_of(module.body)
    named = [function for function in functions if function.name == "run"]
    words = language_words(language)
    candidates = named or [each for each in functions if each.name not in words and not is_stub(each)] or functions
    if len(candidates) > 1 and not named:
        called = called_names(candidates)
        candidates = [each for each in candidates if each.name not in called] or candidates
    if len(candidates) != 1:
        raise PythonError("no function", f"expected one function run(), found {len(functions)} functions")
    return candidates[0]


def _has_extras(function: python_ast.FunctionDef) -> bool:
    return bool(function.decorator_list or function.args.defaults or function.args.kw_defaults)


def _passed_over(node: python_ast.stmt, name: str, names: Names, *, last: bool) -> bool:
    """Return whether a statement outside of functions is no part of the program.

    It does nothing, or assigns a number that `names` knows, or calls the program, which is named `name`, at the end.
    """
    match node:
        case python_ast.FunctionDef() | python_ast.Import() | python_ast.ImportFrom() | python_ast.Pass():
            return True
        case python_ast.Expr(value=python_ast.Constant(value=str())):
            return True
        case python_ast.Expr(value=python_ast.Call(func=python_ast.Name(id=called))):
            return last and (called == name or names.only_calls(called, name))
        case python_ast.If(test=python_ast.Compare(left=python_ast.Name(id="__name__")), body=[call], orelse=[]):
            return last and isinstance(call, python_ast.Expr) and _passed_over(call, name, names, last=True)
    assigned = assignment(node)
    return assigned is not None and assigned[0] in names.constants


def _without_return(body: list[python_ast.stmt]) -> list[python_ast.stmt]:
    """Return the statements of a function without a bare `return` at their end."""
    match body[-1]:
        case python_ast.Return(value=None | python_ast.Constant(value=None)):
            return body[:-1]
    return body


def _source(node: python_ast.AST) -> str:
    """Return a node as Python text for a message, shortened to at most 60 characters."""
    try:
        text = python_ast.unparse(node)
    except (ValueError, RecursionError):  # some f-strings and very long integers have no text
        text = type(node).__name__
    return text if len(text) <= 60 else text[:57] + "..."


class _Reader:
    """Translates Python's syntax tree into ours."""

    def __init__(self, language: Language):
        self.language = language
        self.names = self.outermost = Names({}, {}, frozenset())
        """What names mean in the block that is read, and outside of functions."""
        self.bound: collections.Counter[str] = collections.Counter()
        """How often each name is bound in the function that is read."""
        self.calls: tuple[str, ...] = ()
        """Names of the functions that are read, outermost first."""
        self.inlined = 0
        """Number of statements and conditions that were read in functions other than the program's."""

    def program(self, function: python_ast.FunctionDef, names: Names) -> ast.Body:
        """Return the statements of the program's function."""
        self.names = self.outermost = names
        with self.inside(Function(function, None), {}):
            return self.body(_without_return(function.body), function)

    @contextlib.contextmanager
    def inside(self, called: Function, arguments: Mapping[str, int]) -> Iterator[None]:
        """Read the body of a function, whose parameters have these values, in the block of a `with` statement."""
        function = called.node
        if function.name in self.calls:
            raise PythonError("recursion", f"{function.name} calls itself", function.lineno)
        outside = self.names, self.bound, self.calls
        self.names = (called.scope or self.outermost).inside(function, arguments)
        self.bound = collections.Counter(name for name, _ in bindings([function.args, *function.body]))
        self.calls = (*self.calls, function.name)
        yield
        self.names, self.bound, self.calls = outside

    def binds(self, name: str) -> bool:
        """Return whether a name stands for something of the text."""
        return name in self.bound or self.names.binds(name)

    def count_inlined(self, node: python_ast.stmt | python_ast.expr) -> None:
        """Count a statement or condition, if it is in a function other than the program's."""
        self.inlined += len(self.calls) > 1
        if self.inlined > _MOST_INLINED:
            raise PythonError("too long", f"more than {_MOST_INLINED} statements in called functions", node.lineno)

    def called(self, node: python_ast.expr) -> tuple[Function, dict[str, int]] | None:
        """Return the function of the text that a node calls, and its arguments, or None if it calls no such function.

        Raises:
          PythonError: an argument is not a whole number, the function has more or other parameters, or it is not clear
            which function is meant.
        """
        match node:
            case python_ast.Call(func=python_ast.Name(id=name)) if name in self.names.functions:
                called = self.names.functions[name]
                function = called.node
            case _:
                return None
        if called.scope is None and name in self.names.disputed:
            raise PythonError("redefinition", f"a later block defines {name} differently", node.lineno)
        if _has_extras(function) or function.args.vararg or function.args.kwarg:
            raise PythonError("unsupported python", f"{name} has decorators or default arguments", function.lineno)
        parameters = [each.arg for each in (*function.args.posonlyargs, *function.args.args)]
        parameters += [each.arg for each in function.args.kwonlyargs]
        given = dict(zip(parameters, node.args, strict=False)) | {word.arg: word.value for word in node.keywords}
        values = {str(key): whole_number(value, self.names.constants) for key, value in given.items()}
        numbers = {key: value for key, value in values.items() if value is not None}
        if sorted(numbers) != sorted(parameters) or len(node.args) + len(node.keywords) != len(parameters):
            expected = f"{', '.join(parameters)}, each a whole number" if parameters else "no argument"
            raise PythonError("bad argument", f"{name} takes {expected}", node.lineno)
        return called, numbers

    def body(self, nodes: list[python_ast.stmt], owner: python_ast.stmt) -> ast.Body:
        """Return the statements of a block, which must not be empty; `owner` is the statement that the block is in."""
        body = self.optional_body(nodes)
        if not body:
            raise PythonError("empty body", "a block without a statement", owner.lineno)
        return body

    def optional_body(self, nodes: list[python_ast.stmt]) -> ast.Body:
        """Return the statements of a block, which may be empty. What is assigned in it is known to its end."""
        names = self.names
        body = tuple(statement for node in nodes for statement in self.statement(node))
        self.names = names
        return body

    def statement(self, node: python_ast.stmt) -> ast.Body:
        """Return a statement of Python as statements of the DSL: none, one, or those of the function that it calls."""
        self.count_inlined(node)
        if assigned := assignment(node):
            return self.assign(*assigned, node)
        match node:
            case python_ast.Pass():
                return ()
            case python_ast.FunctionDef() if self.names.is_known(node):
                return ()  # read where it is called; a stub of a word is not called
            case python_ast.Expr(value=python_ast.Constant(value=str())):
                return ()
            case python_ast.Expr(value=python_ast.Call() as call):
                if called := self.called(call):
                    function, arguments = called
                    with self.inside(function, arguments):
                        return self.optional_body(_without_return(function.node.body))
                return (ast.Action(self.word(call, self.language.action_names, "action")),)
            case python_ast.While(test=test, body=body, orelse=[]):
                return (ast.While(self.condition(test), self.body(body, node)),)
            case python_ast.For(iter=call, body=body, orelse=[]):
                return (ast.Repeat(self.count(call), self.body(body, node)),)
            case python_ast.If(test=test, body=body, orelse=orelse):
                return self.branch(self.condition(test), self.optional_body(body), self.optional_body(orelse))
        raise PythonError("unsupported python", f"{type(node).__name__} has no counterpart in the DSL", node.lineno)

    def assign(self, name: str, expression: python_ast.expr, node: python_ast.stmt) -> ast.Body:
        """Note a whole number that a name is assigned once. The assignment is no statement of the DSL."""
        value = whole_number(expression, self.names.constants)
        if value is None or self.bound[name] != 1:
            message = f"{_source(node)!r}: a name can only be assigned a whole number, and once"
            raise PythonError("unsupported python", message, node.lineno)
        self.names = self.names.assigned(name, value)
        return ()

    def branch(self, condition: ast.Condition, body: ast.Body, otherwise: ast.Body) -> ast.Body:
        """Return an `if` statement as zero or one statements of the DSL, which has no empty blocks.

        A branch that is empty, or consists of `pass`, is left out: `if a: pass` with an `else` becomes `if not a`.
        """
        if body and otherwise:
            return (ast.IfElse(condition, body, otherwise),)
        if body:
            return (ast.If(condition, body),)
        return (ast.If(negation(condition), otherwise),) if otherwise else ()

    def condition(self, node: python_ast.expr) -> ast.Condition:
        """Return an expression as a condition. `a and b and c` is read as `a and (b and c)`."""
        self.count_inlined(node)
        if called := self.called(node):
            function, arguments = called
            with self.inside(function, arguments):
                return self.returned(function.node)
        match node:
            case python_ast.Constant(value=bool(value)):
                return ast.Constant(value)
            case python_ast.Constant(value=int(value)) if value in (0, 1):
                return ast.Constant(value == 1)
            case python_ast.UnaryOp(op=python_ast.Not(), operand=operand):
                return ast.Not(self.condition(operand))
            case python_ast.BoolOp(op=op, values=values):
                operands = [self.condition(value) for value in values]
                result = operands.pop()
                while operands:
                    pair = operands.pop(), result
                    result = ast.And(*pair) if isinstance(op, python_ast.And) else ast.Or(*pair)
                return result
            case python_ast.Compare(
                left=left, ops=[python_ast.Eq() | python_ast.Is()], comparators=[python_ast.Constant(value=bool(value))]
            ):
                return self.condition(left) if value else ast.Not(self.condition(left))
            case python_ast.Call() | python_ast.Name():
                return ast.Perception(self.perception(node))
        raise PythonError("unsupported python", f"{_source(node)!r} is not a condition", node.lineno)

    def returned(self, function: python_ast.FunctionDef) -> ast.Condition:
        """Return the condition that a function returns, possibly as `if B: return True` and `return False`."""
        match [node for node in function.body if not _is_docstring(node)]:
            case [python_ast.Return(value=python_ast.expr() as value)]:
                return self.condition(value)
            case [python_ast.If(test=test, body=[python_ast.Return(value=yes)], orelse=other), *rest]:
                match yes, [*other, *rest]:
                    case python_ast.Constant(value=True), [python_ast.Return(value=python_ast.Constant(value=False))]:
                        return self.condition(test)
                    case python_ast.Constant(value=False), [python_ast.Return(value=python_ast.Constant(value=True))]:
                        return negation(self.condition(test))
        message = f"{function.name} is used as a condition, so it has to return one and do nothing else"
        raise PythonError("unsupported python", message, function.lineno)

    def perception(self, node: python_ast.Call | python_ast.Name) -> str:
        """Return the name of a perception, argument included, from a call of it or from its bare name."""
        function = node.func if isinstance(node, python_ast.Call) else node
        name = function.id if isinstance(function, python_ast.Name) else ""
        if name not in self.language.arguments:
            plain = [text for text in self.language.perception_names if " " not in text]
            return self.word(node, plain, "perception")
        values = [*node.args, *(word.value for word in node.keywords)] if isinstance(node, python_ast.Call) else []
        allowed = self.language.arguments[name]
        match values:
            case [python_ast.Constant(value=str(argument))] if argument in allowed:
                return f"{name} h( {argument} h)"
            case [python_ast.Name(id=argument)] if argument in allowed and not self.binds(argument):
                return f"{name} h( {argument} h)"
        raise PythonError("bad argument", f"{name} takes one of {', '.join(allowed)}", node.lineno)

    def word(self, node: python_ast.Call | python_ast.Name, known: Sequence[str], what: str) -> str:
        """Return the name that is called, which has to be one of `known` and to take no argument."""
        function = node.func if isinstance(node, python_ast.Call) else node
        name = function.id if isinstance(function, python_ast.Name) else _source(function)
        if name not in known:
            message = f"{name!r} is not an {what}" if what == "action" else f"{name!r} is not a {what}"
            raise PythonError("unknown name", f"{message}; known: {', '.join(known)}", node.lineno)
        if isinstance(node, python_ast.Call) and (node.args or node.keywords):
            raise PythonError("bad argument", f"{name} takes no argument", node.lineno)
        return name

    def count(self, call: python_ast.expr) -> int:
        """Return the number of rounds of a loop over `range(...)`, whose bounds have to be whole numbers.

        `range(n)` and `range(0, n)` give n even if it is negative; `Program.to_python` writes counts so.
        """
        match call:
            case python_ast.Call(func=python_ast.Name(id="range"), args=arguments, keywords=[]):
                match [whole_number(argument, self.names.constants) for argument in arguments]:
                    case [int(stop)] | [0, int(stop)] | [0, int(stop), 1]:
                        return stop
                    case [int(start), int(stop)]:
                        return len(range(start, stop))
                    case [int(start), int(stop), int(step)] if step:
                        return len(range(start, stop, step))
        message = f"a for loop runs over range(n) with a whole number n below {MOST:,}, found {_source(call)!r}"
        raise PythonError("bad count", message, call.lineno)


def _is_docstring(node: python_ast.stmt) -> bool:
    return isinstance(node, python_ast.Expr) and isinstance(node.value, python_ast.Constant)


def negation(condition: ast.Condition) -> ast.Condition:
    """Return the negation of a condition, which is the inner condition if it is a negation itself."""
    return condition.condition if isinstance(condition, ast.Not) else ast.Not(condition)
