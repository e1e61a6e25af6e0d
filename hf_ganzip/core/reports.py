# SPDX-License-Identifier: Apache-2.0
"""How reports show themselves: short in a console, folded in a notebook, rows in pandas; ``str`` is the whole table."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape
from typing import Any, ClassVar


class Report:
    """Base of what the verbs return.

    A subclass is a dataclass with ``repr=False``: the generated one would print every field.
    """

    computed: ClassVar[tuple[str, ...]] = ()  # properties that to_dict has besides the fields

    def to_dict(self) -> dict[str, Any]:
        """Plain dict for JSON: the fields, and what is computed of them."""
        report: Any = self  # a dataclass
        return asdict(report) | {name: getattr(self, name) for name in self.computed}

    def facts(self) -> dict[str, str]:
        """Name -> text: what a console and the head of a notebook's cell show."""
        raise NotImplementedError

    def tables(self) -> dict[str, list[tuple[str, ...]]]:
        """Title -> rows of cells, names of columns first: what a notebook folds."""
        raise NotImplementedError

    def rows(self) -> list[dict[str, Any]]:
        """One dict of plain values for every row of :meth:`to_pandas`."""
        raise NotImplementedError

    def to_pandas(self) -> Any:
        """:meth:`rows` as a ``pandas.DataFrame``.

        Raises:
            ImportError: pandas is missing.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError("to_pandas needs pandas: pip install pandas. rows() gives the same as dicts.") from error
        return pandas.DataFrame(self.rows())

    def __repr__(self) -> str:
        facts = "; ".join(f"{name} {text}" for name, text in self.facts().items())
        said = f"{type(self).__name__}: {facts}"
        head = textwrap.fill(
            said, 119, subsequent_indent="  ", break_on_hyphens=False, max_lines=2, placeholder=" ..."
        )
        return f"{head}\n  print() shows all of it, .to_pandas() and .to_dict() give it"

    def _repr_html_(self) -> str:
        folded = (
            f"<details><summary>{escape(title)} ({len(cells) - 1})</summary>{html_table(cells, head=True)}</details>"
            for title, cells in self.tables().items()
        )
        return f"<b>{type(self).__name__}</b>{html_table(list(self.facts().items()))}{''.join(folded)}"


def conditions_table(conditions: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Conditions of a measurement as cells, one row each."""
    return [("condition", "value"), *((name, str(value)) for name, value in conditions.items())]


def markdown_table(cells: Sequence[Sequence[str]]) -> str:
    """Cells, names of columns first, as a table in Markdown.

    Example:
        >>> print(markdown_table([("name", "value"), ("a|b", "1")]))
        | name | value |
        |---|---|
        | a\\|b | 1 |
    """
    lines = ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in cells]
    return "\n".join([lines[0], "|---" * len(cells[0]) + "|", *lines[1:]])


def html_table(cells: Sequence[tuple[str, ...]], head: bool = False) -> str:
    """Cells, escaped, as a table in HTML; ``head``: the first row holds names."""
    lines = []
    for index, row in enumerate(cells):
        tag = "th" if head and index == 0 else "td"
        lines.append("<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row) + "</tr>")
    return f"<table>{''.join(lines)}</table>"
