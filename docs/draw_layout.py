"""Draw docs/layout.svg: the folders of the package, the files in them, and who imports whom.

    python docs/draw_layout.py            draw the picture anew
    python docs/draw_layout.py --check    return 1 if the picture is not what would be drawn

The folders, files and arrows come from the imports of the package; only the place and the
description of each folder stand here. An arrow that breaks the rule of import_graph.py is red.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent

sys.path.insert(0, str(HERE.parent / "tests" / "project"))

from import_graph import (  # noqa: E402 - its folder is no package
    DOORS,
    MAY_IMPORT,
    PACKAGE,
    Graph,
    between_folders,
    folder_of,
    modules,
    read_imports,
)

WIDTH = 960
MARGIN = 40  # pixels
GAP = 40  # pixels
PADDING = 14  # pixels
CHIP_HEIGHT = 22  # pixels
CHIP_GAP = 7  # pixels
CHARACTER = 7.3  # pixels
TITLE_CHARACTER = 9.7  # pixels
CAPTION_HEIGHT = 92  # pixels
HEAD = 9  # pixels
ASIDE = 24  # pixels
LANE = 7  # pixels

FULL = (MARGIN, WIDTH - MARGIN)
RIGHT = (WIDTH - MARGIN - 240, WIDTH - MARGIN)
LEFT = (MARGIN, RIGHT[0] - GAP)
HALF = (LEFT[1] - LEFT[0] - GAP) // 2
LEFT_HALF = (LEFT[0], LEFT[0] + HALF)
RIGHT_HALF = (LEFT[1] - HALF, LEFT[1])

FLOORS = (
    {"_cli": FULL},
    {DOORS: FULL},
    {"_httpx": LEFT},
    {"_sync": LEFT_HALF, "_anyio": RIGHT_HALF},
    {"_net": LEFT},
    {"protocol": FULL},
)
"""The folders of each floor from the top, and where each begins and ends from left to right."""

BESIDE = {"testing": (RIGHT, 2)}
"""The folders that do not have the height of their floor: their place, and the floor's number."""

DESCRIPTIONS = {
    "_cli": "the command “socksclient”",
    DOORS: "the doors: what your program imports",
    "_httpx": "one body for httpx and httpx2",
    "_sync": "the runtime that blocks",
    "_anyio": "its twin on asyncio, trio",
    "_net": "what both runtimes share: it decides, and never waits",
    "protocol": "the protocols as generators: no socket, no clock, no log",
    "testing": "a proxy for tests",
}

STYLE = """
    text { font: 13px system-ui, sans-serif; fill: #1f2328 }
    .paper { fill: #ffffff }
    .name { font: bold 16px ui-monospace, Menlo, Consolas, monospace }
    .file { font: 12px ui-monospace, Menlo, Consolas, monospace }
    .note { fill: #59636e }
    .public { fill: #ddf4ff; stroke: #0969da; stroke-width: 1.5 }
    .private { fill: #f6f8fa; stroke: #818b98; stroke-width: 1.5; stroke-dasharray: 5 4 }
    .chip { fill: #ffffff; stroke: #d1d9e0 }
    .arrow { fill: none; stroke: #59636e; stroke-width: 2 }
    .wrong { fill: none; stroke: #cf222e; stroke-width: 2.5 }
    .head { fill: #59636e }
    .wrong-head { fill: #cf222e }
    @media (prefers-color-scheme: dark) {
      text { fill: #f0f6fc }
      .paper { fill: #0d1117 }
      .note { fill: #9198a1 }
      .public { fill: #121d2f; stroke: #4493f8 }
      .private { fill: #151b23; stroke: #656c76 }
      .chip { fill: #0d1117; stroke: #3d444d }
      .arrow { stroke: #9198a1 }
      .wrong { stroke: #f85149 }
      .head { fill: #9198a1 }
      .wrong-head { fill: #f85149 }
    }
"""

HEAD_OF_ARROW = (
    '  <marker id="{0}" viewBox="0 0 10 10" refY="5" markerWidth="10" markerHeight="10"'
    ' markerUnits="userSpaceOnUse" orient="auto"><path class="{0}" d="M0 0L10 5L0 10z"/></marker>'
)


class Box(NamedTuple):
    """Where a folder is drawn, in pixels from the top left corner of the picture."""

    left: int
    top: int
    right: int
    bottom: int


def files_of(folder: str) -> list[str]:
    """Return the files of a folder as the picture names them, without its `__init__`."""
    names = []
    for module, path in modules(PACKAGE).items():
        if folder_of(module) != folder:
            continue
        if folder == DOORS:
            names.append(path.name)
        elif path.parent == PACKAGE:
            names.append(f"../{path.name}")
        elif path != PACKAGE / folder / "__init__.py":
            names.append(path.relative_to(PACKAGE / folder).as_posix())
    return names


def chips(folder: str, width: int) -> Iterator[tuple[float, int, float, str]]:
    """Yield for each file of a folder its x, its row and its width within the box, and its name."""
    x, row = float(PADDING), 0
    for name in files_of(folder):
        size = len(name) * CHARACTER + 16
        if x + size > width - PADDING:
            x, row = float(PADDING), row + 1
        yield x, row, size, name
        x += size + CHIP_GAP


def height_of(folder: str, width: int) -> int:
    """Return the height of a box that has room for all files of the folder."""
    rows = 1 + max((row for _, row, _, _ in chips(folder, width)), default=0)
    return 36 + rows * (CHIP_HEIGHT + CHIP_GAP) + PADDING - CHIP_GAP


def boxes() -> dict[str, Box]:
    """Return the place of each folder."""
    found = {}
    tops = []
    top = CAPTION_HEIGHT
    for floor in FLOORS:
        bottom = top + max(height_of(name, right - left) for name, (left, right) in floor.items())
        for name, (left, right) in floor.items():
            found[name] = Box(left, top, right, bottom)
        tops.append(top)
        top = bottom + GAP
    for name, ((left, right), floor_number) in BESIDE.items():
        top = tops[floor_number]
        found[name] = Box(left, top, right, top + height_of(name, right - left))
    return found


def arrows(folders: Graph) -> Iterator[tuple[str, str, bool]]:
    """Yield the importing and the imported folder of each arrow, and whether the rule allows it.

    An arrow that is allowed is left out where a path of other arrows leads to the same folder.
    """
    allowed = {name: imported & set(MAY_IMPORT[name]) for name, imported in folders.items()}
    for name, imported in sorted(folders.items()):
        for other in sorted(imported):
            if other not in allowed[name]:
                yield name, other, False
            elif not any(_leads_to(other, between, allowed) for between in allowed[name]):
                yield name, other, True


def _leads_to(target: str, start: str, graph: Graph) -> bool:
    return any(name == target or _leads_to(target, name, graph) for name in graph[start])


def line(start: Box, end: Box, others: Iterable[Box], lane: int) -> str:
    """Return the path of an arrow: straight if no box is in the way, else by the left margin.

    Arrows up and to the left stand aside, so that they do not cover those of the other direction.
    """
    left, right = max(start.left, end.left), min(start.right, end.right)
    top, bottom = max(start.top, end.top), min(start.bottom, end.bottom)
    if left < right and not any(
        other.left < right and left < other.right and bottom <= other.top < top for other in others
    ):
        x = (left + right) // 2
        if start.top < end.top:
            return f"M{x} {start.bottom}V{end.top - HEAD}"
        return f"M{x + ASIDE} {start.top}V{end.bottom + HEAD}"
    if top < bottom:
        y = (top + bottom) // 2
        if start.left < end.left:
            return f"M{start.right} {y}H{end.left - HEAD}"
        return f"M{start.left} {y + ASIDE}H{end.right + HEAD}"
    x = MARGIN - 12 - LANE * lane
    y = (start.top + start.bottom) // 2 + LANE * lane
    return f"M{start.left} {y}H{x}V{(end.top + end.bottom) // 2 + LANE * lane}H{end.left - HEAD}"


def draw() -> str:
    """Return the picture as the text of an SVG file."""
    folders = between_folders(read_imports())
    places = boxes()
    if set(folders) != set(places):
        unknown = ", ".join(sorted(set(folders) ^ set(places)))
        raise SystemExit(
            f"{unknown}: draw_layout.py and the package do not have the same folders; "
            "correct FLOORS here, and MAY_IMPORT in tests/project/import_graph.py"
        )
    height = max(box.bottom for box in places.values()) + MARGIN
    size = f'width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
        "  <title>The folders of socksclient, and which imports from which</title>",
        f"  <style>{STYLE}  </style>",
        *(HEAD_OF_ARROW.format(name) for name in ("head", "wrong-head")),
        f'  <rect class="paper" width="{WIDTH}" height="{height}"/>',
        *caption(),
    ]
    for name, box in places.items():
        drawn += draw_box(name, box)
    lane = 0
    for start, end, is_allowed in arrows(folders):
        kind, head = ("arrow", "head") if is_allowed else ("wrong", "wrong-head")
        others = [box for name, box in places.items() if name not in (start, end)]
        path = line(places[start], places[end], others, lane)
        lane += path.count("H") > 1
        drawn.append(arrow(kind, head, path, f"{title_of(start)} imports from {title_of(end)}"))
    return "\n".join([*drawn, "</svg>", ""])


def caption() -> Iterator[str]:
    """Yield what explains the boxes and the arrows."""
    yield rectangle("public", MARGIN, 24, 34, 20)
    yield text("label", MARGIN + 44, 39, "you may import what is here")
    yield rectangle("private", 300, 24, 34, 20)
    yield text("label", 344, 39, "how it is made")
    yield arrow("arrow", "head", "M480 34H505", "imports from")
    yield text("label", 524, 39, "imports from; an arrow that breaks the rule is red")
    note = "Where a path of arrows leads down to a folder, there may be direct imports too."
    yield text("note", MARGIN, 70, note)


def draw_box(folder: str, box: Box) -> Iterator[str]:
    """Yield the elements of one folder."""
    width, height = box.right - box.left, box.bottom - box.top
    kind = "private" if folder.startswith("_") else "public"
    yield rectangle(kind, box.left, box.top, width, height)
    name = title_of(folder)
    yield text("name", box.left + PADDING, box.top + 24, name)
    x = box.left + PADDING + round(len(name) * TITLE_CHARACTER) + 12
    yield text("note", x, box.top + 24, DESCRIPTIONS[folder])
    for chip_x, row, size, file in chips(folder, width):
        x, y = box.left + round(chip_x), box.top + 36 + row * (CHIP_HEIGHT + CHIP_GAP)
        yield rectangle("chip", x, y, round(size), CHIP_HEIGHT)
        yield text("file", x + 8, y + 15, file)


def title_of(folder: str) -> str:
    """Return the name of a folder as a path."""
    return "socksclient/" if folder == DOORS else f"{folder}/"


def rectangle(kind: str, x: int, y: int, width: int, height: int) -> str:
    """Return a rectangle with round corners."""
    return f'  <rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="6"/>'


def text(kind: str, x: int, y: int, content: str) -> str:
    """Return a line of text."""
    return f'  <text class="{kind}" x="{x}" y="{y}">{escape(content)}</text>'


def arrow(kind: str, head: str, path: str, title: str) -> str:
    """Return an arrow along a path; the title appears where the mouse rests on the arrow."""
    attributes = f'class="{kind}" d="{path}" marker-end="url(#{head})"'
    return f"  <path {attributes}><title>{escape(title)}</title></path>"


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the picture, or check that it is current."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--check", action="store_true", help="only compare; change nothing")
    parser.add_argument("file", nargs="?", type=Path, default=HERE / "layout.svg")
    options = parser.parse_args(arguments)
    picture = draw()
    if not options.check:
        options.file.write_text(picture, encoding="utf-8", newline="\n")
    elif not options.file.exists() or options.file.read_text(encoding="utf-8") != picture:
        print(f"{options.file} is not current: run `python docs/draw_layout.py`")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
