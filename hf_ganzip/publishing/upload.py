# SPDX-License-Identifier: Apache-2.0
"""All that is written to the Hub: one commit, and one sentence of advice where it is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id


_ADVICE = {
    401: "log in with `hf auth login`, set HF_TOKEN, or give token=",
    403: "the token has no write permission there",
    404: "no such repository, branch or namespace, or the token may not see it",
    409: "the repository is being changed by somebody else; try again",
    412: "the branch has moved since; try again",
    429: "too many requests; wait, then try again",
}
_AGAIN = "try again: files that arrived are not sent twice, and no commit was made"
_UNKNOWN = "whether the commit was made is not known: look at the repository, then try again"
_STORAGE = "the store of large files refused it, because its link is too old or a proxy stands in between; " + _AGAIN
# Whatever HTTP library huggingface_hub uses; RuntimeError: a file could not be sent.
NETWORK_ERRORS: tuple[Any, ...] = (*HfHubHTTPError.__bases__, OSError, RuntimeError)


def check_target(repo_id: str, revision: str | None = None, create_pr: bool = False) -> None:
    """Refuse what the Hub would refuse after some of the work.

    Raises:
        ValueError: ``repo_id`` is not "namespace/name" in the Hub's characters, or a pull request to a branch.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"repo_id is {repo_id!r}; allowed is 'namespace/name': {error}") from error
    if repo_id.count("/") != 1:
        raise ValueError(f"repo_id is {repo_id!r}; allowed is 'namespace/name'.")
    if create_pr and revision not in (None, "main"):
        raise ValueError(
            f"create_pr with revision={revision!r}: a pull request goes to main; leave out one of the two."
        )


def upload(
    folder: Path,
    repo_id: str,
    *,
    repo_type: str = "model",
    private: bool = True,
    revision: str | None = None,
    create_pr: bool = False,
    message: str,
    stale: Sequence[str] = (),
    dry_run: bool = False,
    token: str | None = None,
    **options: Any,
) -> str:
    """Upload a folder in one commit to a repository that is created if it is missing; URL of the commit or pull
    request, "" for a dry run.

    Args:
        folder: Its files.
        repo_id: "namespace/name".
        repo_type: "model" or "space".
        private: Of a repository that is created.
        revision: Branch, created if it is missing.
        create_pr: Open a pull request.
        message: Of the commit.
        stale: Patterns of files that the commit removes from the repository, if the folder does not hold them.
        dry_run: Send nothing.
        token: None: the one that is logged in.
        **options: For ``HfApi.create_repo``.

    Raises:
        ValueError: As :func:`check_target`.
        ConnectionError: The Hub refused or cannot be reached; says what to do.
    """
    check_target(repo_id, revision, create_pr)
    if dry_run:
        return ""
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
            delete_patterns=list(stale) or None,
        )
    except NETWORK_ERRORS as error:
        raise ConnectionError(f"{repo_id}: {_explained(error)}.") from error
    return str(commit.pr_url or commit.commit_url)


def sizes(folder: Path) -> dict[str, int]:
    """Path in a folder -> bytes, of every file, sorted."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.stat().st_size for path in paths}


def _explained(error: Exception) -> str:
    """What happened, and what to do."""
    status = _status(error)
    said = f"the Hub answered {status}" if status else str(error).rstrip(".")
    if isinstance(error, RuntimeError) and (stored := _status(error.__cause__)):
        return f"{said}: the answer was {stored}; {_STORAGE if stored < 500 else _AGAIN}"
    if status and status < 500:
        return f"{said}: {_ADVICE.get(status, error)}"
    return f"{said}; {_UNKNOWN if '/commit/' in _url(error) else _AGAIN}"


def _status(error: BaseException | None) -> int | None:
    """Of the answer; None without one."""
    return error.response.status_code if isinstance(error, HfHubHTTPError) else None


def _url(error: Exception) -> str:
    """Of the request that failed; "" if it is not known."""
    try:
        return str(getattr(error, "response", error).request.url)  # type: ignore[union-attr]  # caught below
    except (AttributeError, RuntimeError):
        return ""
