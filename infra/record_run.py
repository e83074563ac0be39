"""Record `make run` in a terminal and draw it as `docs/run.svg`, the picture in the README: `make picture`.

The picture has two moments of one run: the last screen on which the homes trade, and the result, the last line of
output. Nothing but the standard library is needed.
"""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import textwrap
from collections.abc import Iterator
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Final

COMMAND: Final = ("make", "run", "HOMES=6", "DURATION=90")
COLUMNS: Final = 88
LINES: Final = 50
TRADING: Final = "trading, "
"""Text on every screen of the phase that is drawn."""
ROOT: Final = Path(__file__).parents[1]
PICTURE: Final = ROOT / "docs" / "run.svg"

CELL_WIDTH: Final = 7.8
LINE_HEIGHT: Final = 17
MARGIN: Final = 16
STYLES: Final = {
    1: ' font-weight="bold"',
    3: ' font-style="italic"',
    31: ' fill="#ff7b72"',
    32: ' fill="#7ee787"',
    36: ' fill="#79c0ff"',
}
"""Attributes of SVG by the number that selects a style in a terminal (SGR)."""

Row = list[tuple[str, str]]
"""The characters of a row, each with its style as attributes of SVG."""

_CONTROL: Final = re.compile(r"\x1b\[([\d;?]*)([A-Za-z])|[\r\n]|[^\x1b\r\n]")


class Screen:
    """A terminal as far as the display of `make run` uses one: it moves up, erases lines, and sets colours."""

    def __init__(self) -> None:
        """Start empty, with the cursor at the top left."""
        self.rows: list[Row] = [[]]
        self.trading: list[Row] = []
        self._row = self._column = 0
        self._style = ""
        self._redraws = False

    def feed(self, text: str) -> None:
        """Draw a program's output. A display erases its lines before it redraws; until then the screen is whole."""
        for control in _CONTROL.finditer(text):
            parameters, letter = control[1], control[2]
            if letter in {"A", "K"}:
                if not self._redraws and any(TRADING in plain(row) for row in self.rows):
                    self.trading = [list(row) for row in self.rows]
                self._redraws = True
            elif control[0] != "\r":
                self._redraws = False
            if letter == "A":
                self._row = max(0, self._row - int(parameters or 1))
            elif letter == "K":
                self.rows[self._row] = []
            elif letter == "m":
                self._set_style([int(number or 0) for number in parameters.split(";")])
            elif letter is None:
                self._print(control[0])

    def _print(self, character: str) -> None:
        if character == "\r":
            self._column = 0
        elif character == "\n":
            self._row, self._column = self._row + 1, 0
            while len(self.rows) <= self._row:
                self.rows.append([])
        else:
            row = self.rows[self._row]
            row.extend([(" ", "")] * (self._column - len(row)))
            row[self._column : self._column + 1] = [(character, self._style)]
            self._column += 1

    def _set_style(self, numbers: list[int]) -> None:
        for number in numbers:
            self._style = self._style + STYLES.get(number, "") if number else ""


def plain(row: Row) -> str:
    """The text of a row."""
    return "".join(character for character, _ in row).rstrip()


def drawing(rows: list[Row]) -> str:
    """The rows as a picture (SVG). Each run of one style has its width given, so that columns stand in any font."""
    width = COLUMNS * CELL_WIDTH + 2 * MARGIN
    height = len(rows) * LINE_HEIGHT + 2 * MARGIN
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" width="{width:.0f}" '
        f'font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, monospace" font-size="13" fill="#e6edf3">'
    )
    background = f'<rect width="{width:.0f}" height="{height}" rx="8" fill="#0d1117"/>'
    return "\n".join([head, background, *_texts(rows), "</svg>", ""])


def _texts(rows: list[Row]) -> Iterator[str]:
    for number, row in enumerate(rows):
        column = 0
        for style, cells in groupby(row, key=lambda cell: cell[1]):
            text = "".join(character for character, _ in cells)
            shown = text.strip()
            x = MARGIN + (column + len(text) - len(text.lstrip())) * CELL_WIDTH
            y = MARGIN + (number + 0.75) * LINE_HEIGHT
            column += len(text)
            if shown:
                size = f'x="{x:.1f}" y="{y:.1f}" textLength="{len(shown) * CELL_WIDTH:.1f}"'
                yield f'<text {size} xml:space="preserve"{style}>{escape(shown)}</text>'


def scenes(screen: Screen) -> list[Row]:
    """The command, the last screen of trading, and the result below it."""
    result = [plain(row) for row in screen.rows if plain(row)][-1:]
    below = ["", "...", *textwrap.wrap("".join(result), COLUMNS)]
    return [_row(f"$ {' '.join(COMMAND)}"), *screen.trading, *(_row(line) for line in below)]


def _row(text: str) -> Row:
    return [(character, "") for character in text]


def record() -> tuple[Screen, int]:
    """Run the command in a terminal of its own; what it drew, and its exit status."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    screen, rest = Screen(), b""
    with subprocess.Popen(
        [COMMAND[0], "--no-print-directory", *COMMAND[1:]],  # make says which folder it is in if another make calls it
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=ROOT,
        env=os.environ | {"TERM": "xterm-256color", "COLUMNS": str(COLUMNS), "LINES": str(LINES)},
    ) as program:
        os.close(theirs)
        while chunk := _read(ours):
            whole, _, rest = (rest + chunk).rpartition(b"\n")
            screen.feed(f"{whole.decode(errors='replace')}\n" if whole else "")
        screen.feed(rest.decode(errors="replace"))
    os.close(ours)
    return screen, program.returncode


def _read(terminal: int) -> bytes:
    """More of the output; nothing once the program has ended, which Linux reports as an error."""
    try:
        return os.read(terminal, 65_536)
    except OSError:
        return b""


def main() -> int:
    """Record, and keep the picture if the run succeeded."""
    screen, status = record()
    if status or not screen.trading:
        print("\n".join(plain(row) for row in screen.rows), file=sys.stderr)
        print(f"{' '.join(COMMAND)} failed, or never traded: {PICTURE.name} stays as it was.", file=sys.stderr)
        return 1
    PICTURE.write_text(drawing(scenes(screen)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
