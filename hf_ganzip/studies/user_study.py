# SPDX-License-Identifier: Apache-2.0
"""Side-by-side pairs for people to judge, and the count of their answers."""

from __future__ import annotations

import csv
import html
import json
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..images.grids import image_grid


_EXEMPLARS = 6


def export_pairs(
    folder: str | Path,
    systems: dict[str, Tensor],
    *,
    sources: Tensor | None = None,
    exemplars: Tensor | None = None,
    question: str = "Which picture is better?",
    seed: int = 0,
) -> None:
    """Write a page on which two systems are compared image by image, left and right at random.

    ``index.html`` shows the pairs, ``answers.csv`` takes "left" or "right" per row and rater, ``key.json`` (not for
    raters) says which system was where.

    Args:
        folder: New or empty.
        systems: Two names -> uint8 images (N, C, H, W); row i of both belongs together.
        sources: What was translated, (N, C, H, W).
        exemplars: Images of the target domain; six are shown.
        question: Shown above the pairs.
        seed: Of the sides.

    Raises:
        ValueError: Not two systems of equally many images, or a folder that is not empty.

    Source:
        FQ-GAN, section 5.4.
    """
    folder = Path(folder)
    if len(systems) != 2 or len({len(images) for images in systems.values()}) != 1:
        raise ValueError("export_pairs: allowed are two systems with equally many images.")
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"export_pairs: {folder} is not empty.")
    (folder / "images").mkdir(parents=True, exist_ok=True)
    names = list(systems)
    count = len(systems[names[0]])
    swapped = (torch.rand(count, generator=torch.Generator().manual_seed(seed)) < 0.5).tolist()
    key, cells = {}, []
    for index, swap in enumerate(swapped):
        sides = names[::-1] if swap else names
        key[str(index)] = {"left": sides[0], "right": sides[1]}
        row = [("source", sources[index])] if sources is not None else []
        row += [("left", systems[sides[0]][index]), ("right", systems[sides[1]][index])]
        for side, image in row:
            picture = image_grid(image[None], 1, padding=0, scale=max(1, 256 // image.shape[-1]))
            picture.save(folder / "images" / f"{index}-{side}.png")
        pictures = "".join(f'<td><img src="images/{index}-{side}.png"><br>{side}</td>' for side, _ in row)
        cells.append(f"<tr><th>{index}</th>{pictures}</tr>")
    examples = ""
    if exemplars is not None:
        image_grid(exemplars[:_EXEMPLARS], _EXEMPLARS).save(folder / "images" / "exemplars.png")
        examples = '<p>Examples of the target:<br><img src="images/exemplars.png"></p>'
    title = html.escape(question)
    (folder / "index.html").write_text(
        f"<!doctype html><meta charset=utf-8><title>{title}</title><h1>{title}</h1>{examples}"
        f"<table>{''.join(cells)}</table><p>Write left or right for every row into answers.csv.</p>\n"
    )
    with open(folder / "answers.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "rater", "answer"])
        writer.writerows([index, "", ""] for index in range(count))
    (folder / "key.json").write_text(json.dumps(key, indent=1))


def count_votes(folder: str | Path, answers: Sequence[str | Path] | None = None) -> dict[str, dict[str, float]]:
    """Join answers with the key: every image goes to the system that most raters preferred, ties to nobody.

    Args:
        folder: Of :func:`export_pairs`.
        answers: CSV files; None: ``answers.csv`` in the folder.

    Returns:
        System -> ``images`` (won), ``share`` of the decided images, and ``low`` and ``high`` of its 95 % interval
        (Wilson).

    Raises:
        ValueError: An answer that is neither left nor right, or no answer at all.
    """
    folder = Path(folder)
    key = json.loads((folder / "key.json").read_text())
    votes: dict[str, Counter] = defaultdict(Counter)
    for file in answers or [folder / "answers.csv"]:
        with open(file, newline="") as opened:
            for row in csv.DictReader(opened):
                if not row["answer"]:
                    continue
                if row["answer"] not in ("left", "right") or row["row"] not in key:
                    raise ValueError(
                        f"{file}: row {row['row']!r} has the answer {row['answer']!r}; allowed are left and right."
                    )
                votes[row["row"]][key[row["row"]][row["answer"]]] += 1
    won: Counter = Counter()
    for counts in votes.values():
        (first, most), *others = counts.most_common()
        if not others or others[0][1] < most:
            won[first] += 1
    total = sum(won.values())
    if not total:
        raise ValueError("count_votes: nothing was decided.")
    names = next(iter(key.values())).values()
    return {name: {"images": won[name], "share": won[name] / total, **_wilson(won[name], total)} for name in names}


def _wilson(successes: int, total: int, z: float = 1.959964) -> dict[str, float]:
    share, spread = successes / total, z * z / total
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / total + spread / (4 * total)) / (1 + spread)
    return {"low": max(0.0, middle - half), "high": min(1.0, middle + half)}
