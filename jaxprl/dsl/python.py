"""Python text of programs, both ways: what language models write and what people read.

    def run():
        while not markersPresent():
            move()
        putMarker()

Reading goes through Python's own `ast` and never evaluates anything. Printing and reading are inverses.
"""

from __future__ import annotations

import ast as python_ast
import warnings

from jaxprl.dsl import ast
from jaxprl.dsl.language import Language
from jaxprl.errors import UserError


class PythonError(UserError):
    """Python text that is not a program: `reason` is a short name to count by, the message has the line."""

    def __init__(self, reason: str, message: str, line: int | None = None):
        super().__init__(f"line {line}: {message}" if line else message)
        self.reason = reason


def to_python(program: ast.Program) -> str:
    """Return the program as a Python function `run()`, four spaces an indent, no final newline."""
    return "\n".join(["def run():", *_lines(program.body, "    ")])


def statement_lines(program: ast.Program) -> list[int]:
    """Return the line of `to_python`, counted from 1, on which each statement begins, in the order of
    `ast.statements`. Its condition is on the same line."""
    lines = to_python(program).splitlines()
    return [number for number, line in enumerate(lines, 1) if number > 1 and line.strip() != "else:"]


def call_text(word: str) -> str:
    """Return the Python text of an action or a perception: `move()`, `front_object_type("lava")`."""
    name, *argument = word.split()
    return f'{name}("{argument[1]}")' if argument else f"{name}()"


def _lines(body: ast.Body, indent: str) -> list[str]:
    lines: list[str] = []
    for statement in body:
        match statement:
            case ast.Action(name):
                lines.append(f"{indent}{call_text(name)}")
            case ast.While(condition, inner):
                lines += [f"{indent}while {_condition(condition)}:", *_lines(inner, indent + "    ")]
            case ast.Repeat(count, inner):
                lines += [f"{indent}for i in range({count}):", *_lines(inner, indent + "    ")]
            case ast.If(condition, inner):
                lines += [f"{indent}if {_condition(condition)}:", *_lines(inner, indent + "    ")]
            case ast.IfElse(condition, inner, other):
                lines += [f"{indent}if {_condition(condition)}:", *_lines(inner, indent + "    ")]
                lines += [f"{indent}else:", *_lines(other, indent + "    ")]
    return lines


def _condition(condition: ast.Condition) -> str:
    match condition:
        case ast.Perception(name):
            return call_text(name)
        case ast.Constant(value):
            return str(value)
        case ast.Not(inner):
            return f"not {_condition(inner)}" if isinstance(inner, ast.Perception) else f"not ({_condition(inner)})"
        case ast.And(left, right):
            return f"({_condition(left)}) and ({_condition(right)})"
        case ast.Or(left, right):
            return f"({_condition(left)}) or ({_condition(right)})"


def from_python(source: str, language: Language) -> ast.Program:
    """Return the program of the one function (or of the one named `run`) in `source`.

    `elif`, `and`, `or`, True, False, `while`, `for ... in range(n)` and `range(0, n)` with literal n are
    understood; comments, docstrings, imports, `pass` and a final call of the function are passed over.
    Raises PythonError with a reason: "python syntax", "no function", "unsupported python", "unknown name",
    "bad argument", "bad count", "empty body", "too long" (nested beyond any program that runs).
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
    """Return whether a statement outside of functions may be left out: it does nothing, or runs `name` at the end."""
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
    """Return a function's statements without a bare `return` at their end."""
    match body[-1]:
        case python_ast.Return(value=None):
            return body[:-1]
    return body


def _source(node: python_ast.AST) -> str:
    """Return the node as Python text for a message, cut off where it is long."""
    try:
        text = python_ast.unparse(node)
    except (ValueError, RecursionError):  # some f-strings and very long integers have no text
        text = type(node).__name__
    return text if len(text) <= 60 else text[:57] + "..."


class _Reader:
    def __init__(self, language: Language):
        self.language = language

    def body(self, nodes: list[python_ast.stmt], owner: python_ast.stmt) -> ast.Body:
        body = self.optional_body(nodes)
        if not body:
            raise PythonError("empty body", "a block without a statement", owner.lineno)
        return body

    def optional_body(self, nodes: list[python_ast.stmt]) -> ast.Body:
        return tuple(statement for node in nodes for statement in self.statement(node))

    def statement(self, node: python_ast.stmt) -> ast.Body:
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
        """A branch of `pass` alone is left out, since the DSL has no empty blocks."""
        if body and otherwise:
            return (ast.IfElse(condition, body, otherwise),)
        if body:
            return (ast.If(condition, body),)
        return (ast.If(negation(condition), otherwise),) if otherwise else ()

    def condition(self, node: python_ast.expr) -> ast.Condition:
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

    def word(self, node: python_ast.Call | python_ast.Name, known, what: str) -> str:
        function = node.func if isinstance(node, python_ast.Call) else node
        name = function.id if isinstance(function, python_ast.Name) else _source(function)
        if name not in known:
            message = f"{name!r} is not an {what}" if what == "action" else f"{name!r} is not a {what}"
            raise PythonError("unknown name", f"{message}; known: {', '.join(known)}", node.lineno)
        if isinstance(node, python_ast.Call) and (node.args or node.keywords):
            raise PythonError("bad argument", f"{name} takes no argument", node.lineno)
        return name

    def count(self, call: python_ast.Call) -> int:
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
    """Return the condition's negation without doubling a `not`."""
    return condition.condition if isinstance(condition, ast.Not) else ast.Not(condition)
