"""Where panels stand: Grafana's grid of 24 columns, filled row by row."""

from __future__ import annotations

from panels import Json

__all__ = ["COLUMNS", "Grid"]

COLUMNS = 24


class Grid:
    """Panels with their ids and places, from the top down."""

    def __init__(self) -> None:
        self.panels: list[Json] = []
        self._top = 0

    def row(self, panels: list[Json], *, height: int) -> Grid:
        """Side by side over the whole width, which their number must divide."""
        width, left = divmod(COLUMNS, len(panels))
        if left:
            raise ValueError(f"panels of a row must divide {COLUMNS} columns: got {len(panels)}")
        for index, one in enumerate(panels):
            place = {"x": index * width, "y": self._top, "w": width, "h": height}
            self.panels.append({"id": len(self.panels) + 1, "gridPos": place, **one})
        self._top += height
        return self

    def section(self, title: str, charts: list[Json]) -> Grid:
        """A heading, and charts in pairs below it. The last of an odd number has the whole width."""
        self.row([{"type": "row", "title": title, "collapsed": False, "panels": []}], height=1)
        for start in range(0, len(charts), 2):
            self.row(charts[start : start + 2], height=8)
        return self
