"""SQL is what the source says: no value that comes from anywhere else is ever part of a statement's text."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [*(ROOT / "layers").rglob("*.py"), *(ROOT / "functions").rglob("*.py")]
EXECUTES = {"execute", "executemany", "stream", "copy"}
COMPOSED = {"sql.SQL", "sql.Identifier", "sql.Literal"}  # psycopg quotes these itself
FROM_FILES = {"migration.sql"}  # a migration is a file beside the function's code
Node = ast.FunctionDef | ast.Module


def statements(module: ast.Module) -> Iterator[tuple[ast.expr, Node]]:
    """What is executed, and the function that does it."""
    for function in scopes(module):
        for node in own_nodes(function):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in EXECUTES:
                yield node.args[0], function


def scopes(module: ast.Module) -> list[Node]:
    return [module, *(node for node in ast.walk(module) if isinstance(node, ast.FunctionDef))]


def own_nodes(function: Node) -> Iterator[ast.AST]:
    """All nodes of a function but those of the functions within it."""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, ast.FunctionDef):
            waiting += ast.iter_child_nodes(node)


def is_literal(node: ast.expr, function: Node) -> bool:  # noqa: C901, PLR0911 - one case a kind of expression
    """Whether an expression can only be text, or a number, that stands in the source."""
    match node:
        case ast.Constant():
            return True
        case ast.JoinedStr():
            return all(is_literal(part, function) for part in node.values)
        case ast.FormattedValue():
            return node.format_spec is None and is_literal(node.value, function)
        case ast.BinOp(op=ast.Add()):
            return is_literal(node.left, function) and is_literal(node.right, function)
        case ast.IfExp():
            return is_literal(node.body, function) and is_literal(node.orelse, function)
        case ast.Subscript():  # of a table of statements
            return isinstance(node.value, ast.Name) and is_constant(node.value.id)
        case ast.Call(func=ast.Attribute(value=inner, attr="encode"), args=[]):
            return is_literal(inner, function)
        case ast.Call(func=ast.Attribute(value=inner, attr="format"), args=parts):
            return is_literal(inner, function) and all(is_literal(part, function) for part in parts)
        case ast.Call():
            return ast.unparse(node.func) in COMPOSED
        case ast.Attribute():
            return is_constant(node.attr) or ast.unparse(node) in FROM_FILES
        case ast.Name():
            return is_constant(node.id) or is_literal_name(node.id, function)
    return False


def is_constant(name: str) -> bool:
    """Whether this is spelt as constants are; ruff and mypy see that they are Final."""
    return name.isupper()


def is_literal_name(name: str, function: Node) -> bool:
    """Whether a parameter is declared to be literal text, or a variable only ever is."""
    if isinstance(function, ast.FunctionDef):
        arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
        for argument in arguments:
            if argument.arg == name:
                return argument.annotation is not None and ast.unparse(argument.annotation) == "LiteralString"
    given = []
    for node in own_nodes(function):
        match node:
            case ast.Assign(targets=[ast.Name(id=target)], value=value) if target == name:
                given.append(value)
            case ast.AnnAssign(target=ast.Name(id=target), value=ast.expr() as value) if target == name:
                given.append(value)
            case ast.For(target=ast.Name(id=target), iter=ast.Name(id=table)) if target == name and is_constant(table):
                return True
    return bool(given) and all(is_literal(value, function) or is_composition(value) for value in given)


def is_composition(node: ast.expr) -> bool:
    """Whether psycopg puts it together, as `sql.SQL(", ").join(sql.Identifier(name) for name in names)`."""
    return (
        isinstance(node, ast.Call)
        and ast.unparse(node).startswith("sql.SQL(")
        and "sql.Identifier(" in ast.unparse(node)
    )


def literal_arguments(module: ast.Module) -> Iterator[tuple[ast.expr, Node]]:
    """What is given for parameters that are declared to be literal text, by calls in the same module."""
    functions = {node.name: node for node in ast.walk(module) if isinstance(node, ast.FunctionDef)}
    for caller in scopes(module):
        for node in own_nodes(caller):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in functions:
                called = functions[node.func.id].args
                named = {argument.arg: argument for argument in [*called.posonlyargs, *called.args, *called.kwonlyargs]}
                given = dict(zip(named, node.args, strict=False))
                given |= {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
                for name, value in given.items():
                    annotation = named[name].annotation if name in named else None
                    if annotation is not None and ast.unparse(annotation) == "LiteralString":
                        yield value, caller


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_statement_has_a_value_in_its_text(path: Path) -> None:
    module = ast.parse(path.read_text())
    parts = [*statements(module), *literal_arguments(module)]
    assert [f"line {part.lineno}: {ast.unparse(part)}" for part, where in parts if not is_literal(part, where)] == []


@pytest.mark.parametrize(
    "source",
    [
        'def find(conn, name):\n    conn.execute(f"SELECT 1 WHERE name = {name}")',
        'def find(conn, name):\n    conn.execute("SELECT 1 WHERE name = " + name)',
        'def find(conn, name):\n    conn.execute("SELECT 1 WHERE name = %s" % name)',
        'def find(conn, name):\n    query = "SELECT " + name\n    conn.execute(query)',
        "def find(conn, name: str):\n    conn.execute(name)",
        'def find(conn, user):\n    conn.execute("SELECT {}".format(user.name))',
        "def find(conn, query: LiteralString):\n    conn.execute(query)\n\ndef ask(conn, name):\n    find(conn, name)",
    ],
)  # fmt: skip
def test_a_value_in_a_statements_text_is_found(source: str) -> None:
    module = ast.parse(source)
    parts = [*statements(module), *literal_arguments(module)]
    assert any(not is_literal(part, where) for part, where in parts)


def test_there_are_statements_to_look_at() -> None:
    assert sum(len(list(statements(ast.parse(path.read_text())))) for path in SOURCES) > 80
