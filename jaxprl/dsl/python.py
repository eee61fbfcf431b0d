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
import warnings
from collections.abc import Sequence

from jaxprl.dsl import ast
from jaxprl.dsl.language import Language
from jaxprl.errors import UserError


class PythonError(UserError):
    """The Python text is not a program. The message names the line.

    Attributes:
      reason: a short name of what is wrong, by which such texts can be counted.
    """

    def __init__(self, reason: str, message: str, line: int | None = None):
        super().__init__(f"line {line}: {message}" if line else message)
        self.reason = reason


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

    `elif`, `and`, `or`, True, False, `while`, `for ... in range(n)` and `range(0, n)` with a literal n are understood.
    Comments, docstrings, imports, `pass` and a final call of the function are ignored.

    Args:
      source: Python text with exactly one function, or with exactly one that is named `run`.
      language: the language whose actions and perceptions the text may use.

    Returns:
      The program of that function.

    Raises:
      PythonError: the text is not a program. Its `reason` is "python syntax", "no function", "unsupported python",
        "unknown name", "bad argument", "bad count", "empty body" or "too long" (nested more deeply than any program
        that can be run).

    Example:
      >>> from jaxprl.worlds.karel.world import LANGUAGE
      >>> print(from_python("def run():\\n    for i in range(3):\\n        move()", LANGUAGE))
      DEF run m( REPEAT R=3 r( move r) m)
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "invalid escape sequence" is not ours to report
            module = python_ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None)
        what = getattr(error, "msg", str(error)) or "too deep to parse"
        raise PythonError("python syntax", f"not Python: {what}", line) from None
    functions = [node for node in module.body if isinstance(node, python_ast.FunctionDef)]
    named = [node for node in functions if node.name == "run"]
    if len(named or functions) != 1:
        raise PythonError("no function", f"expected one function run(), found {len(functions)} functions")
    function = (named or functions)[0]
    if function.decorator_list or function.args.defaults or function.args.kw_defaults:
        raise PythonError("unsupported python", f"{function.name} has decorators or default arguments", function.lineno)
    for node in module.body:
        if not _passed_over(node, function.name, last=node is module.body[-1]):
            raise PythonError("unsupported python", f"code outside {function.name}(): {_source(node)!r}", node.lineno)
    try:
        return ast.Program(_Reader(language).body(_without_return(function.body), function))
    except RecursionError:
        raise PythonError("too long", "nested too deeply", function.lineno) from None


def _passed_over(node: python_ast.stmt, name: str, *, last: bool) -> bool:
    """Return whether a statement outside of functions is ignored: it does nothing, or calls `name` at the very end."""
    match node:
        case python_ast.FunctionDef() | python_ast.Import() | python_ast.ImportFrom() | python_ast.Pass():
            return True
        case python_ast.Expr(value=python_ast.Constant(value=str())):
            return True
        case python_ast.Expr(value=python_ast.Call(func=python_ast.Name(id=called))):
            return last and called == name
        case python_ast.If(test=python_ast.Compare(left=python_ast.Name(id="__name__")), body=[call], orelse=[]):
            return last and isinstance(call, python_ast.Expr) and _passed_over(call, name, last=True)
    return False


def _without_return(body: list[python_ast.stmt]) -> list[python_ast.stmt]:
    """Return the statements of a function without a bare `return` at their end."""
    match body[-1]:
        case python_ast.Return(value=None):
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

    def body(self, nodes: list[python_ast.stmt], owner: python_ast.stmt) -> ast.Body:
        """Return the statements of a block, which must not be empty; `owner` is the statement that the block is in."""
        body = self.optional_body(nodes)
        if not body:
            raise PythonError("empty body", "a block without a statement", owner.lineno)
        return body

    def optional_body(self, nodes: list[python_ast.stmt]) -> ast.Body:
        """Return the statements of a block, which may be empty."""
        return tuple(statement for node in nodes for statement in self.statement(node))

    def statement(self, node: python_ast.stmt) -> ast.Body:
        """Return a statement of Python as zero or one statements of the DSL."""
        match node:
            case python_ast.Pass():
                return ()
            case python_ast.Expr(value=python_ast.Constant(value=str())):
                return ()
            case python_ast.Expr(value=python_ast.Call() as call):
                return (ast.Action(self.word(call, self.language.action_names, "action")),)
            case python_ast.While(test=test, body=body, orelse=[]):
                return (ast.While(self.condition(test), self.body(body, node)),)
            case python_ast.For(iter=python_ast.Call() as call, body=body, orelse=[]):
                return (ast.Repeat(self.count(call), self.body(body, node)),)
            case python_ast.If(test=test, body=body, orelse=orelse):
                return self.branch(self.condition(test), self.optional_body(body), self.optional_body(orelse))
        raise PythonError("unsupported python", f"{type(node).__name__} has no counterpart in the DSL", node.lineno)

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
            case [python_ast.Name(id=argument)] if argument in allowed:
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

    def count(self, call: python_ast.Call) -> int:
        """Return n of `range(n)` or `range(0, n)`, which has to be a literal with an absolute value below 10^8."""
        if isinstance(call.func, python_ast.Name) and call.func.id == "range" and not call.keywords:
            try:
                bounds = [python_ast.literal_eval(argument) for argument in call.args]
            except (ValueError, TypeError):
                bounds = []
            literal = bounds and all(type(bound) is int for bound in bounds) and bounds[:-1] in ([], [0])
            if literal and abs(bounds[-1]) < 10**8:
                return bounds[-1]
        raise PythonError("bad count", "a for loop runs over range(n) with a literal n", call.lineno)


def negation(condition: ast.Condition) -> ast.Condition:
    """Return the negation of a condition, which is the inner condition if it is a negation itself."""
    return condition.condition if isinstance(condition, ast.Not) else ast.Not(condition)
