# SPDX-License-Identifier: Apache-2.0
"""Where converted weights come from: file, SHA-256, URL and licence, in the config and on the card."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Source:
    """Origin of converted weights.

    Args:
        format: Key of ``CONVERTERS``.
        file: Name of the file.
        sha256: Of the file, hexadecimal.
        network: Which network of the file.
        url: Where it was found, or "".
        license: As stated by whoever converted it, else what is known of the format; never freer than that.
        stated: Whether ``license`` was stated.
        notes: What conversion left out or assumed.
    """

    format: str
    file: str
    sha256: str
    network: str
    url: str
    license: str
    stated: bool
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain dict for JSON."""
        return asdict(self) | {"notes": list(self.notes)}


def card(model: Any, source: Source) -> str:
    """README.md of a converted model."""
    name = "unknown" if source.license.startswith("unknown") else source.license
    licence = f"license: {source.license}" if source.stated else f"license: other\nlicense_name: {name}"
    link = f"license_link: {source.url}\n" if source.url and not source.stated else ""
    rows = [("format", source.format), ("file", source.file), ("SHA-256", source.sha256), ("network", source.network)]
    rows += [("URL", source.url or "not stated"), ("licence", source.license)]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    notes = "".join(f"\n- {note}" for note in source.notes)
    return f"""---
library_name: hf_ganzip
{licence}
{link}tags:
- gan
- {type(model).__name__}
---

# {type(model).__name__} from {source.file}

Converted by hf_ganzip without running code of the checkpoint. The weights remain under the terms of their source.

| source | |
|---|---|
{table}
{notes}

```python
import hf_ganzip as gz

model = gz.load_model("THIS_FOLDER_OR_HUB_ID")
```
"""
