"""A QR code as the shapes of one SVG path: drawn here, so that a secret goes to nobody else, and no script draws it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

import segno

_QUIET = 4  # modules of white around it (ISO/IEC 18004)


@dataclass(frozen=True, slots=True)
class QrCode:
    """`size` modules each way; `path` is what is dark."""

    size: int
    path: str


def qr_code(text: str) -> QrCode:
    """Each run of dark modules in a row is one rectangle."""
    matrix = [[bool(module) for module in row] for row in segno.make_qr(text, error="m").matrix]
    runs: list[str] = []
    for y, row in enumerate(matrix):
        x = 0
        for dark, group in groupby(row):
            width = len(list(group))
            if dark:
                runs.append(f"M{x + _QUIET} {y + _QUIET}h{width}v1h-{width}z")
            x += width
    return QrCode(len(matrix) + 2 * _QUIET, "".join(runs))
