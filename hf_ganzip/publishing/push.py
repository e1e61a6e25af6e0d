# SPDX-License-Identifier: Apache-2.0
"""Upload a model after reloading it: save, load in a fresh process by the card's own snippet, compare bit for bit,
then one commit.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from ..core.hub import CODE_FILES
from ..core.record import origin_of, recorded_steps
from ..core.reports import Report
from ..evaluation.eval_results import FOLDER, PREFIX, write_eval_results
from ..saved.folder import dtype_argument, loading_snippet, read_saved
from .card import PICTURE, as_dicts, by_kind, evaluations_of, render_card
from .check import differences, fingerprint, networks_of, run_remote_snippet, run_snippet
from .metadata import Base, Licence, base_of, find_licence
from .remote_code import remote_snippet, write_code
from .upload import NETWORK_ERRORS, check_target, sizes, upload


_SAMPLES, _COLUMNS = 20, 10
_STALE = (  # of what was there before
    *("*.safetensors", "*.safetensors.index.json", "config.json", "model_index.json"),
    *CODE_FILES,
    f"{FOLDER}/{PREFIX}*.yaml",
)


@dataclass(frozen=True, repr=False)
class PushReport(Report):
    """What :func:`push_to_hub` did.

    Args:
        repo_id: Hub id.
        url: Of the commit, or of the pull request; "" for a dry run.
        files: Path in the repository -> bytes.
        card: Text of README.md.
        compared: Network -> SHA-256 of its tensors and of its output, the same before saving and after loading.
    """

    repo_id: str
    url: str
    files: dict[str, int]
    card: str
    compared: dict[str, dict[str, str | None]]

    def facts(self) -> dict[str, str]:
        where = {"repository": self.repo_id, "url": self.url or "nothing was uploaded"}
        return where | {"files": f"{len(self.files)}", "bytes": f"{sum(self.files.values()):,}"}

    def rows(self) -> list[dict[str, Any]]:
        return [{"file": name, "bytes": size} for name, size in self.files.items()]

    def tables(self) -> dict[str, list[tuple[str, ...]]]:
        return {"files": [("file", "bytes"), *((name, f"{size:,}") for name, size in self.files.items())]}

    def __str__(self) -> str:
        lines = [f"{size:>14,}  {name}" for name, size in self.files.items()]
        total = sum(self.files.values())
        done = self.url or f"nothing was uploaded; the repository would be {self.repo_id}"
        return "\n".join([*lines, f"{total:>14,}  in all; reloaded in a fresh process bit for bit", done])


def push_to_hub(
    model: Any,
    repo_id: str,
    *,
    report: Any = (),
    reference: Any = None,
    base_model: str | None = None,
    license: str | None = None,
    datasets: Sequence[str] = (),
    title: str | None = None,
    private: bool = True,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
    max_shard_size: int | str | None = None,
    samples: int = _SAMPLES,
    standalone: bool = False,
    measure: bool = True,
    dry_run: bool = False,
    token: str | None = None,
) -> PushReport:
    """Publish a model or pipeline with a card in one commit, after what is uploaded was reloaded and found equal.

    The commit also removes weight files, ``config.json`` and ``model_index.json`` that were in the repository and are
    not uploaded again, so that it holds this model and no other.

    Args:
        model: Model or diffusers pipeline, compressed or not.
        repo_id: "namespace/name" on the Hub (or on ``HF_ENDPOINT``); created if it is missing.
        report: One or several reports for the card, see :func:`.render_card`. Evaluations of this model against a
            dataset of the Hub become ``.eval_results/*.yaml``, too, see :func:`.eval_results`.
        reference: The full model: the card's picture shows the same latents of both.
        base_model: Hub id of the full model; None: from the record.
        license: Of the weights; None: as for :func:`.render_card`, README.md being that of the folder that the model
            was loaded from, and asking the Hub (not in a dry run) for the licence of a base model that is there.
        datasets: Hub ids of the training data.
        title: Heading of the card.
        private: Of a repository that is created; an existing one stays as it is.
        revision: Branch, created if it is missing; None: main.
        create_pr: Open a pull request to main instead of committing.
        commit_message: None: what the model is.
        max_shard_size: Of a weight file, such as "5GB".
        samples: Images of the card's picture, for models that draw images from latents or noise, in whole rows of ten
            where there are more; 0: none.
        standalone: What diffusers opens with ``trust_remote_code=True`` is one file that needs torch and diffusers
            alone, instead of a few lines that import hf_ganzip; see :func:`save_for_hub`.
        measure: Where no report tells sizes and the time of a pass, measure them here (beside those of ``reference``)
            for the card.
        dry_run: Do everything but talk to the Hub.
        token: None: the one that is logged in.

    Raises:
        ValueError: ``repo_id`` is none, ``create_pr`` together with a branch, ``standalone`` as for
            :func:`save_for_hub`, or what was saved does not load to the same bits; nothing was uploaded then.
        TypeError: Not a model or pipeline, or a report of another kind.
        RuntimeError: The loading snippet of the card fails.
        ConnectionError: The Hub refused or cannot be reached; says what to do, and if it is not known whether there is
            a commit.
    """
    check_target(repo_id, revision, create_pr)
    reports = as_dicts(report)
    by_kind(reports)
    if not hasattr(model, "save_pretrained"):
        raise TypeError(f"push_to_hub: a {type(model).__name__} is no model and no pipeline.")
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent, "model")
        compared = _save_and_compare(model, folder, max_shard_size, standalone)
        _draw(model, reference, folder, samples)
        if measure and not by_kind(reports)["cost"]:
            reports += _measured(model, reference)
        licence = license if license is not None else _licence(model, folder, base_model, token, dry_run)
        card = render_card(
            folder, repo_id, report=reports, base_model=base_model, license=licence, datasets=datasets, title=title
        )
        (folder / "README.md").write_text(card, encoding="utf-8")
        write_eval_results(evaluations_of(folder, repo_id, reports, base_model), folder)
        message = commit_message or f"Upload {type(model).__name__}, reloaded and compared by hf_ganzip"
        where: dict[str, Any] = {"private": private, "revision": revision, "create_pr": create_pr, "token": token}
        url = upload(folder, repo_id, message=message, stale=_STALE, dry_run=dry_run, **where)
        return PushReport(repo_id, url, sizes(folder), card, compared)


def save_for_hub(
    model: Any, folder: str | Path, *, standalone: bool = False, max_shard_size: int | str | None = None
) -> None:
    """Save a model or pipeline with what diffusers needs to open it with ``trust_remote_code=True``.

    ``save_pretrained`` writes the weights alone, which load where hf_ganzip is imported; they do here, too.

    Args:
        model: Model or diffusers pipeline.
        folder: Made if it is missing; modules that an earlier call wrote there are removed.
        standalone: False: the module imports hf_ganzip, and says what to install. True: it holds the generator, its
            pipeline and the unpacking itself, copied from this package.
        max_shard_size: Of a weight file, such as "5GB".

    Raises:
        ValueError: ``standalone`` of a model that transformers loads, or of a discriminator.
    """
    folder = Path(folder)
    for pattern in CODE_FILES:
        for old in folder.glob(pattern):
            old.unlink()
    model.save_pretrained(folder, **({} if max_shard_size is None else {"max_shard_size": max_shard_size}))
    _forget_local_paths(model, folder)
    write_code(folder, standalone=standalone)


def _save_and_compare(
    model: Any, folder: Path, max_shard_size: int | str | None, standalone: bool
) -> dict[str, dict[str, str | None]]:
    save_for_hub(model, folder, standalone=standalone, max_shard_size=max_shard_size)
    expected, saved = fingerprint(model), read_saved(folder)
    problems = differences(expected, run_snippet(loading_snippet(saved, str(folder))))
    if any(folder.rglob(CODE_FILES[0])):
        snippet = remote_snippet(saved, str(folder), dtype_argument(saved))
        found = differences(expected, run_remote_snippet(snippet, model, without_us=standalone))
        problems += [f"{problem} (with trust_remote_code=True)" for problem in found]
    if problems:
        advice = "".join(map(_casting_advice, networks_of(model).values()))
        raise ValueError(
            f"push_to_hub: the saved model loads with other bits: {', '.join(problems)}. Nothing was uploaded.{advice}"
        )
    return expected


def _measured(model: Any, reference: Any) -> list[dict[str, Any]]:
    """A cost report, if the model has one network that makes the images, of a known family."""
    from ..evaluation.cost import measure_cost

    try:
        return [measure_cost(model, reference, repeats=3, memory=False).to_dict()]
    except ValueError:  # of no family, of several networks, or on another device than the reference
        return []


def _casting_advice(network: Any) -> str:
    kept = ", ".join(getattr(network, "_keep_in_fp32_modules", None) or ())
    if not kept or all(tensor.dtype.itemsize >= 4 for tensor in network.parameters()):
        return ""
    name = type(network).__name__
    return f" from_pretrained keeps {kept} of a {name} in float32: load it with torch_dtype= instead of casting it."


def _forget_local_paths(model: Any, folder: Path) -> None:
    """diffusers writes the folder that a model or pipeline came from into its config."""
    origins = {folder / "model_index.json": origin_of(model)}
    for name, network in networks_of(model).items():
        origins[(folder / name if (folder / name).is_dir() else folder) / "config.json"] = origin_of(network)
    for file, origin in origins.items():
        config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        if "_name_or_path" in config:
            config["_name_or_path"] = origin
            file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _licence(model: Any, folder: Path, base_model: str | None, token: str | None, offline: bool) -> Licence:
    """What was stated of the weights: on record, beside what the model was loaded from, or on the Hub."""
    config = getattr(model, "config", None)
    loaded_from = config.get("_name_or_path") if isinstance(config, dict) else getattr(model, "name_or_path", None)
    steps = [step for network in networks_of(model).values() for step in recorded_steps(network)]
    beside = Path(loaded_from) if loaded_from and Path(loaded_from).is_dir() else folder
    ask = None if offline else partial(_card_on_hub, token=token)
    return find_licence(read_saved(folder), beside, base_of(steps, base_model), ask)


def _card_on_hub(base: Base, token: str | None) -> Mapping[str, Any]:
    """Metadata of a repository's card; {} without one, or if it cannot be reached."""
    try:
        card = HfApi(token=token).model_info(base.hub_id, revision=base.revision or None).card_data
    except NETWORK_ERRORS:
        return {}
    return {} if card is None else card.to_dict()


def _draw(model: Any, reference: Any, folder: Path, count: int) -> None:
    """Images of the model, below those of the reference, from the same latents."""
    import torch
    from diffusers import UNet2DModel

    from ..evaluation.sampling import sample_images
    from ..images.grids import save_image_grid

    networks = [each for pair in (reference, model) if pair is not None for each in networks_of(pair).values()]
    able = [each for each in networks if isinstance(each, UNet2DModel) or hasattr(each, "draw_latents")]
    if not count or not able:
        return
    columns = min(count, _COLUMNS)
    rows = -(-count // columns)
    images = torch.cat([sample_images(each, rows * columns)[0] for each in able])
    labels = ("full",) * rows + ("this model",) * rows if len(able) == 2 else ()
    save_image_grid(images, folder / PICTURE, columns=columns, row_labels=labels)
