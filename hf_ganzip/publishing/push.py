# SPDX-License-Identifier: Apache-2.0
"""Upload a model after reloading it: save, load in a fresh process by the card's own snippet, compare bit for bit, then one commit."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from ..record import origin_of
from .card import PICTURE, loading_snippet, read_saved, render_card
from .check import differences, fingerprint, networks_of, run_snippet


_ADVICE = {
    401: "log in with `hf auth login`, set HF_TOKEN, or give token=",
    403: "the token has no write permission there",
    404: "no such repository, branch or namespace, or the token may not see it",
    409: "the repository is being changed by somebody else; try again",
    412: "the branch has moved since; try again",
    429: "too many requests; wait, then try again",
}
_AGAIN = "try again: files that arrived are not sent twice, and no commit was made"
_SAMPLES = 20
# Whatever HTTP library huggingface_hub uses; RuntimeError: a file could not be sent.
_NETWORK_ERRORS = (*HfHubHTTPError.__bases__, OSError, RuntimeError)


@dataclass(frozen=True)
class PushReport:
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

    def to_dict(self) -> dict[str, Any]:
        """Plain dict for JSON."""
        return asdict(self)

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
    dry_run: bool = False,
    token: str | None = None,
) -> PushReport:
    """Publish a model or pipeline with a card, in one commit, after what would be uploaded was reloaded and found equal.

    Args:
        model: Model or diffusers pipeline, compressed or not.
        repo_id: "namespace/name" on the Hub (or on ``HF_ENDPOINT``); created if it is missing.
        report: One or several reports for the card, see :func:`.render_card`.
        reference: The full model: the card's picture shows the same latents of both.
        base_model: Hub id of the full model; None: from the record.
        license: Of the weights; None: from the record, else "other".
        datasets: Hub ids of the training data.
        title: Heading of the card.
        private: Of a repository that is created; an existing one stays as it is.
        revision: Branch, created if it is missing; None: main.
        create_pr: Open a pull request instead of committing.
        commit_message: None: what the model is.
        max_shard_size: Of a weight file, such as "5GB".
        samples: Images of the card's picture, for models that draw images from latents or noise; 0: none.
        dry_run: Do everything but talk to the Hub.
        token: None: the one that is logged in.

    Raises:
        ValueError: ``repo_id`` is none, or what was saved does not load to the same bits; nothing was uploaded then.
        TypeError: Not a model or pipeline, or a report of another kind.
        RuntimeError: The loading snippet of the card fails.
        ConnectionError: The Hub refused or cannot be reached; says what to do. There is no commit then.
    """
    if repo_id.count("/") != 1 or not all(repo_id.split("/")):
        raise ValueError(f"repo_id is {repo_id!r}; allowed is 'namespace/name'.")
    if not hasattr(model, "save_pretrained"):
        raise TypeError(f"push_to_hub: a {type(model).__name__} is no model and no pipeline.")
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent, "model")
        compared = _save_and_compare(model, folder, max_shard_size)
        _draw(model, reference, folder, samples)
        card = render_card(
            folder, repo_id, reports=report, base_model=base_model, license=license, datasets=datasets, title=title
        )
        (folder / "README.md").write_text(card, encoding="utf-8")
        files = {
            str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()
        }
        url = ""
        if not dry_run:
            message = commit_message or f"Upload {type(model).__name__}, reloaded and compared by hf_ganzip"
            where = {"private": private, "revision": revision, "create_pr": create_pr, "token": token}
            url = upload(folder, repo_id, message=message, **where)
    return PushReport(repo_id, url, files, card, compared)


def _save_and_compare(model: Any, folder: Path, max_shard_size: int | str | None) -> dict[str, dict[str, str | None]]:
    options = {} if max_shard_size is None else {"max_shard_size": max_shard_size}
    model.save_pretrained(folder, **options)
    _forget_local_paths(model, folder)
    expected = fingerprint(model)
    problems = differences(expected, run_snippet(loading_snippet(read_saved(folder), str(folder))))
    if problems:
        raise ValueError(
            f"push_to_hub: the saved model loads with other bits: {', '.join(problems)}. Nothing was uploaded."
        )
    return expected


def _forget_local_paths(model: Any, folder: Path) -> None:
    """diffusers writes the folder that a model came from into its config."""
    for name, network in networks_of(model).items():
        file = (folder / name if (folder / name).is_dir() else folder) / "config.json"
        if not file.is_file():
            continue
        config = json.loads(file.read_text(encoding="utf-8"))
        if "_name_or_path" in config:
            config["_name_or_path"] = origin_of(network)
            file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _draw(model: Any, reference: Any, folder: Path, count: int) -> None:
    """Images of the model, below those of the reference, from the same latents."""
    from diffusers import UNet2DModel

    from ..evaluation.sampling import sample_images
    from ..plotting import save_image_grid

    networks = [each for pair in (reference, model) if pair is not None for each in networks_of(pair).values()]
    able = [each for each in networks if isinstance(each, UNet2DModel) or "z_dim" in getattr(each, "config", {})]
    if not count or not able:
        return
    import torch

    columns = min(count, 10)
    images = torch.cat([sample_images(each, count)[0] for each in able])
    labels = ("full", "this model") if len(able) == 2 and count <= columns else ()
    save_image_grid(images, folder / PICTURE, columns=columns, row_labels=labels)


def upload(
    folder: Path,
    repo_id: str,
    *,
    repo_type: str = "model",
    private: bool = True,
    revision: str | None = None,
    create_pr: bool = False,
    message: str,
    token: str | None = None,
    **options: Any,
) -> str:
    """Upload a folder in one commit to a repository that is created if it is missing; URL of the commit or pull request.

    Args:
        folder: Its files.
        repo_id: "namespace/name".
        repo_type: "model" or "space".
        private: Of a repository that is created.
        revision: Branch, created if it is missing.
        create_pr: Open a pull request.
        message: Of the commit.
        token: None: the one that is logged in.
        **options: For ``HfApi.create_repo``.

    Raises:
        ConnectionError: The Hub refused or cannot be reached; says what to do.
    """
    api = HfApi(token=token)
    try:
        api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True, **options)
        if revision is not None and not create_pr:
            api.create_branch(repo_id, repo_type=repo_type, branch=revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id,
            repo_type=repo_type,
            folder_path=folder,
            revision=revision,
            create_pr=create_pr,
            commit_message=message,
        )
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        advice = _ADVICE.get(status or 0) or (_AGAIN if status is None or status >= 500 else "")
        raise ConnectionError(f"{repo_id}: the Hub answered {status}: {advice or error}.") from error
    except _NETWORK_ERRORS as error:
        raise ConnectionError(f"{repo_id}: {error}; {_AGAIN}.") from error
    return str(commit.pr_url or commit.commit_url)
