# SPDX-License-Identifier: Apache-2.0
"""``python -m hf_ganzip``."""

from .cli import main


if __name__ == "__main__":
    main()
