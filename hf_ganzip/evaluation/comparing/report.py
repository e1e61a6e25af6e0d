# SPDX-License-Identifier: Apache-2.0
"""What a comparison found: the report in a console, a notebook and pandas, and as a folder with pictures."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...core.reports import Report, conditions_table, html_table, markdown_table
from ...images.grids import save_image_grid
from ...metrics.resampling import LEVEL, Interval
from ..cost import smaller_and_faster
from ..plotting import save_sqnr_plot
from .measured_pairs import squared_errors


_SHOWN = 8  # images in a row
_RATIOS = ("bytes_held", "ms_per_image")
_LARGEST = 256  # pixels of a side of an image in a picture
GROUPS = {
    "pairs": "The same seed, prompt or class on both sides, image by image. PSNR is that of the mean squared error "
    "over all images. The distance of features is relative to that of two different originals.",
    "noise predictions": "Both denoisers on the states of the original's own trajectories, so that earlier errors do "
    "not add up; the ratio of the sums of squares, before guidance.",
    "distributions": "Quality and diversity apart: precision is the share of images that could be real ones, recall "
    "the share of real ones that could be generated.",
    "cost": "Bytes of every tensor that the networks hold after drawing, and of the weight files; milliseconds an "
    "image, batches in turn, medians.",
}


@dataclass(frozen=True)
class Figure:
    """One figure of a comparison.

    Args:
        group: Of ``GROUPS``.
        name: What was measured.
        unit: "dB", "bytes", "ms" or "".
        candidate: Of the candidate, or of the pairs; None where it could not be measured.
        original: The same of the original, None for what is measured between the two.
        difference: Candidate - original, with an interval of the difference.
    """

    group: str
    name: str
    unit: str
    candidate: Interval | None
    original: Interval | None = None
    difference: Interval | None = None


@dataclass(frozen=True, repr=False)
class CompareReport(Report):
    """An original and a candidate, side by side.

    Args:
        figures: What was measured, with 95 % intervals.
        timesteps: For diffusion models ``component``, ``timestep``, ``sqnr`` in dB, ``low`` and ``high``, in the order
            of sampling.
        conditions: All that decides the figures.
        failures: What could not be computed -> why.
        images: "original" and "candidate": uint8 (N, C, H, W).
    """

    figures: tuple[Figure, ...]
    timesteps: tuple[dict[str, Any], ...]
    conditions: dict[str, Any]
    failures: dict[str, str] = field(default_factory=dict)
    images: Mapping[str, Tensor] = field(default_factory=dict, compare=False)

    def __getitem__(self, name: str) -> Figure:
        """The figure of this name, such as "psnr"."""
        found = {figure.name: figure for figure in self.figures}
        if name not in found:
            raise KeyError(f"{name}; the report has {', '.join(found)}")
        return found[name]

    @property
    def verdict(self) -> str:
        """One line on bytes and time."""
        rows = {row["figure"]: row["original"] / row["candidate"] for row in self.rows() if row["figure"] in _RATIOS}
        return smaller_and_faster(rows["bytes_held"], rows["ms_per_image"], "in memory")

    def to_dict(self) -> dict[str, Any]:
        """Plain dict for JSON, without the images; what is infinite, as the PSNR of equal images, is the text "inf"."""
        figures: dict[str, dict[str, Any]] = {group: {} for group in GROUPS}
        for each in self.figures:
            found = {key: value for key, value in asdict(each).items() if key not in ("group", "name")}
            figures[each.group][each.name] = found
        result = {"figures": figures, "timesteps": list(self.timesteps), "conditions": self.conditions}
        return _plain(result | {"failures": self.failures, "verdict": self.verdict})

    def facts(self) -> dict[str, str]:
        measured = {
            each.name: _text(each.candidate, each.unit)
            for each in self.figures
            if each.group != "cost" and each.candidate is not None
        }
        return {"verdict": self.verdict} | measured

    def rows(self) -> list[dict[str, Any]]:
        """One for every figure."""
        found = []
        for each in self.figures:
            row: dict[str, Any] = {"group": each.group, "figure": each.name, "unit": each.unit}
            for side in ("original", "candidate", "difference"):
                interval = getattr(each, side)
                ends = (None, None, None) if interval is None else (interval.value, interval.low, interval.high)
                row |= dict(zip((side, f"{side}_low", f"{side}_high"), ends))
            found.append(row)
        return found

    def tables(self) -> dict[str, list[tuple[str, ...]]]:
        found: dict[str, list[tuple[str, ...]]] = {}
        for group in GROUPS:
            own = [each for each in self.figures if each.group == group]
            if not own:
                continue
            sides = [side for side in ("original", "candidate", "difference") if any(getattr(e, side) for e in own)]
            heads = {"difference": "candidate - original"} | ({} if len(sides) > 1 else {"candidate": "value"})
            cells = [(e.name, *(_text(getattr(e, side), e.unit) for side in sides)) for e in own]
            found[group] = [("figure", *(heads.get(side, side) for side in sides)), *cells]
        if self.timesteps:
            found["timesteps"] = [("denoiser", "timestep", "SQNR")]
        for row in self.timesteps:
            sqnr = _text(Interval(row["sqnr"], row["low"], row["high"]), "dB")
            found["timesteps"].append((row["component"] or "network", f"{row['timestep']:g}", sqnr))
        if self.failures:
            found["not computed"] = [("what", "why"), *self.failures.items()]
        known = {name: value for name, value in self.conditions.items() if value not in (None, {}, [])}
        return found | {"conditions": conditions_table(known)}

    def __str__(self) -> str:
        lines = [f"{self.conditions['candidate']} against {self.conditions['original']}: {self.verdict}"]
        for title, cells in self.tables().items():
            if title in ("conditions", "timesteps"):
                continue
            widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
            lines += [f"{title}:"] + ["  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]
        short = {name: value for name, value in self.conditions.items() if value is not None and len(str(value)) < 80}
        return "\n".join([*lines, "conditions:", *(f"  {name} {value}" for name, value in short.items())])

    def save(self, folder: str | Path) -> Path:
        """Write ``report.md``, ``report.json``, pictures and ``report.html``, which holds them; returns the Markdown.

        Raises:
            ImportError: matplotlib is missing.
        """
        output = Path(folder)
        output.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False)
        (output / "report.json").write_text(text + "\n", encoding="utf-8")
        pictures = self._pictures(output)
        title = f"{self.conditions['candidate']} against {self.conditions['original']}"
        tables = self.tables()
        markdown = [f"# {title}", f"{self.verdict}. Brackets: {LEVEL:.0%} intervals."]
        html = [f"<h1>{escape(title)}</h1><p>{escape(markdown[1])}</p>"]
        for name, caption in pictures.items():
            markdown += [f"![{Path(name).stem}]({name})", caption]
            data = base64.b64encode((output / name).read_bytes()).decode()
            image = f'<img alt="" src="data:image/png;base64,{data}">'
            html.append(f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>")
        for heading, cells in tables.items():
            said = GROUPS.get(heading, "")
            markdown += [f"## {heading.capitalize()}", *filter(None, [said]), markdown_table(cells)]
            html.append(f"<h2>{escape(heading.capitalize())}</h2><p>{escape(said)}</p>{html_table(cells, head=True)}")
        (output / "report.html").write_text(_PAGE.format(title=escape(title), body="\n".join(html)), encoding="utf-8")
        file = output / "report.md"
        file.write_text("\n\n".join(markdown) + "\n", encoding="utf-8")
        return file

    def _pictures(self, output: Path) -> dict[str, str]:
        """Write the pictures: file -> what it shows."""
        original, candidate = self.images["original"], self.images["candidate"]
        farthest = squared_errors(original, candidate).argsort(descending=True)[:_SHOWN].tolist()
        found = {}
        chosen = {
            "samples.png": (list(range(len(original)))[:_SHOWN], "The first images"),
            "farthest.png": (farthest, "The images that differ most"),
        }
        for name, (which, said) in chosen.items():
            gain = _save_pairs(original[which], candidate[which], output / name)
            prompts = self.conditions.get("prompts")
            texts = "" if not prompts else ": " + "; ".join(f"{i}: {prompts[i % len(prompts)]}" for i in which)
            found[name] = f"{said} (numbers {', '.join(map(str, which))}), differences times {gain}{texts}"
        if self.timesteps:
            save_sqnr_plot(self.timesteps, output / "sqnr.png")
            found["sqnr.png"] = "Signal to noise of the noise predictions over time, with intervals"
        return found


_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 15px/1.5 sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em }}
table {{ border-collapse: collapse }}
td, th {{ border: 1px solid #ccc; padding: 2px 8px; text-align: left; overflow-wrap: anywhere }}
img {{ max-width: 100% }} figure {{ margin: 1em 0 }}
</style></head><body>
{body}
</body></html>
"""


def _save_pairs(original: Tensor, candidate: Tensor, path: Path) -> int:
    """Rows of originals, candidates and their differences as PNG; returns by what the differences are multiplied."""
    differences = (original.int() - candidate.int()).abs()
    gain = max(1, 255 // max(1, int(differences.max())))
    images = torch.cat([original, candidate, (differences * gain).to(torch.uint8)])
    scale = max(images.shape[-2:]) / _LARGEST
    if scale > 1:
        size = [round(side / scale) for side in images.shape[-2:]]
        images = torch.nn.functional.interpolate(images.float(), size, mode="area").round().to(torch.uint8)
    save_image_grid(images, path, columns=len(original), row_labels=("original", "candidate", f"difference x {gain}"))
    return gain


def _text(found: Interval | None, unit: str) -> str:
    if found is None:
        return "-"
    form = ",.0f" if unit == "bytes" else ".4g"
    said = f"{found.value:{form}} {unit}".rstrip()
    return said if found.low is None or found.high is None else f"{said} [{found.low:{form}}, {found.high:{form}}]"


def _plain(value: Any) -> Any:
    """With infinite numbers and NaN as text, which JSON has not."""
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
