# SPDX-License-Identifier: Apache-2.0
"""README.md as the description of the package: there links that are relative to the repository lead nowhere."""

import os
import re
from pathlib import Path

from hatchling.metadata.plugin.interface import MetadataHookInterface


# The variable with the address of the repository, as GitHub forms addresses; the release workflow sets it.
REPOSITORY = "HF_GANZIP_REPOSITORY"
_RELATIVE = re.compile(r"(!?)\[([^\]]*)\]\((?![a-z]+:|#)([^)\s]+)\)")


def description(readme: str, repository: str | None, version: str) -> str:
    """The text with relative links that lead to the tag of the version; without a repository they are text, and
    pictures are left out.
    """

    def link(match: re.Match[str]) -> str:
        picture, label, path = match.groups()
        if repository is None:
            return "" if picture else label
        return f"{picture}[{label}]({repository}/{'raw' if picture else 'blob'}/v{version}/{path})"

    return _RELATIVE.sub(link, readme)


class CustomMetadataHook(MetadataHookInterface):
    def update(self, metadata: dict) -> None:
        repository = os.environ.get(REPOSITORY, "").rstrip("/") or None
        if repository is not None and not repository.startswith("https://"):
            raise ValueError(f"{REPOSITORY} is {repository!r}; allowed is an address that begins with https://.")
        metadata["urls"] = {} if repository is None else {"Repository": repository}
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": description(text, repository, metadata["version"]),
        }
