"""Print the measures of the package: its layout, and the size of its functions and comments.

    python tests/project/measure.py [ROOT_OF_A_CHECKOUT...]

- Code lines are without blank lines, comments, docstrings and the stubs of overloads.
- A cycle is a group of files that all reach each other by imports, those for types included.
- Upward imports of files are the fewest imports that must go so that no cycle remains.
- Floors of files are the longest way down by imports, when the upward ones are gone.
- Upward imports of folders are those that the rule of docs/architecture.md does not allow.
- Comments that only direct a tool (``noqa``, ``type: ignore``) are not counted.
"""

from __future__ import annotations

import ast
import io
import statistics
import subprocess
import sys
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from check_comments import DIRECTIVE
from import_graph import MAY_IMPORT, Graph, between_folders, cycles, read_imports

NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


class Measures:
    """What is counted in the files of the package."""

    def __init__(self) -> None:
        self.code_lines = 0
        self.docstring_lines = 0
        self.whole_line_comments = 0
        self.trailing_comments = 0
        self.functions: list[int] = []
        """The code lines of each function."""

    def add(self, source: str) -> None:
        """Count what one file has."""
        tree = ast.parse(source)
        texts = lines_of(docstrings(tree))
        overloads = [function for function in functions(tree) if is_overload(function)]
        stubs = lines_of(overloads)
        stubs |= lines_of(each for stub in overloads for each in stub.decorator_list)
        lines = source.split("\n")
        code: set[int] = set()
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            row, column = token.start
            if token.type not in NO_CODE:
                code.update(range(row, token.end[0] + 1))
            elif token.type == tokenize.COMMENT and not DIRECTIVE.match(token.string):
                if lines[row - 1][:column].strip():
                    self.trailing_comments += 1
                else:
                    self.whole_line_comments += 1
        code -= texts | stubs
        self.code_lines += len(code)
        self.docstring_lines += len(texts)
        self.functions += [
            len(code & lines_of([function]))
            for function in functions(tree)
            if not is_overload(function)
        ]


def docstrings(tree: ast.AST) -> Iterator[ast.Expr]:
    """Yield each string that is a statement: docstrings, and the texts below values."""
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant(value=str())):
                yield node


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield each function and method."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def is_overload(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Tell whether a function is the stub of an overload."""
    return any(ast.unparse(each).endswith("overload") for each in function.decorator_list)


def lines_of(nodes: Iterable[ast.stmt | ast.expr]) -> set[int]:
    """Return the numbers of all lines of some statements or expressions."""
    return {
        line for node in nodes for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }


def upward_imports(graph: Graph) -> set[tuple[str, str]]:
    """Return a smallest set of imports without which no cycle remains.

    To find the smallest set is hard in general. This looks for an order of each cycle's modules
    that few imports go against, by moving one module at a time for as long as it helps.
    """
    return {pair for group in cycles(graph) for pair in _against(_best_order(graph, group), graph)}


def _against(order: Sequence[str], graph: Graph) -> list[tuple[str, str]]:
    """Return the imports that go from a module to one that stands after it in the order."""
    place = {name: number for number, name in enumerate(order)}
    return [
        (name, imported)
        for name in order
        for imported in graph[name]
        if place.get(imported, -1) > place[name]
    ]


def _best_order(graph: Graph, group: set[str]) -> list[str]:
    """Return an order, the lowest first, that moving one module does not make better."""
    order = sorted(group, key=lambda name: (len(graph[name] & group), name))
    while True:
        candidates = []
        for name in order:
            rest = [other for other in order if other != name]
            candidates += [[*rest[:place], name, *rest[place:]] for place in range(len(order))]
        best = min(candidates, key=lambda candidate: len(_against(candidate, graph)))
        if len(_against(best, graph)) >= len(_against(order, graph)):
            return order
        order = best


def floors(graph: Graph) -> int:
    """Return how many modules stand one upon the other on the longest way down."""
    upward = upward_imports(graph)
    height: dict[str, int] = {}

    def height_of(name: str) -> int:
        if name not in height:
            below = [height_of(other) for other in graph[name] if (name, other) not in upward]
            height[name] = 1 + max(below, default=0)
        return height[name]

    return max(map(height_of, graph))


def public_names(root: Path) -> int:
    """Return how many names `from socksclient import *` brings."""
    code = "import socksclient; print(len(socksclient.__all__))"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=root, check=True, capture_output=True, text=True
    )
    return int(run.stdout)


def measure(root: Path) -> Iterator[tuple[str, str]]:
    """Yield the name and the value of each measure of a checkout."""
    package = root / "socksclient"
    paths = sorted(package.rglob("*.py"))
    graph = read_imports(package)
    folders = between_folders(graph, package)
    counted = Measures()
    for path in paths:
        counted.add(path.read_text(encoding="utf-8"))
    yield "files", f"{len(paths)}"
    yield "folders", f"{len({path.parent for path in paths})}"
    yield "imports between files", f"{sum(map(len, graph.values()))}"
    yield "floors of files", f"{floors(graph)}"
    yield "cycles of files", f"{len(cycles(graph))}"
    yield "files in the largest cycle", f"{max(map(len, cycles(graph)), default=0)}"
    yield "upward imports of files", f"{len(upward_imports(graph))}"
    if any((package / name).is_dir() for name in MAY_IMPORT):
        not_allowed = sum(len(folders[name] - set(MAY_IMPORT[name])) for name in folders)
        yield "floors of folders", f"{floors(folders)}"
        yield "cycles of folders", f"{len(cycles(folders))}"
        yield "upward imports of folders", f"{not_allowed}"
    yield "code lines", f"{counted.code_lines}"
    yield "docstring lines per code line", f"{counted.docstring_lines / counted.code_lines:.2f}"
    sizes = sorted(counted.functions)
    yield "functions", f"{len(sizes)}"
    yield (
        "code lines per function: median, p90, longest",
        f"{statistics.median(sizes):g}, {sizes[len(sizes) * 9 // 10]}, {sizes[-1]}",
    )
    yield "whole-line comments", f"{counted.whole_line_comments}"
    yield (
        "whole-line comments per code line",
        f"{counted.whole_line_comments / counted.code_lines:.3f}",
    )
    yield "trailing comments", f"{counted.trailing_comments}"
    comments = counted.whole_line_comments + counted.trailing_comments
    yield "trailing among all comments", f"{counted.trailing_comments / comments:.0%}"
    yield "public names in socksclient", f"{public_names(root)}"


def main(roots: Sequence[str]) -> int:
    """Print a table with a column for each checkout."""
    columns = [dict(measure(Path(root))) for root in roots]
    print("| measure |", " | ".join(Path(root).resolve().name for root in roots), "|")
    print("|---" * (len(columns) + 1) + "|")
    for name in max(columns, key=len):
        print(f"| {name} |", " | ".join(column.get(name, "–") for column in columns), "|")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or [str(Path(__file__).parents[2])]))
