# SPDX-License-Identifier: Apache-2.0
"""``python -m hf_ganzip.space [METRIC]``: the app on this machine."""

import sys

from .app import launch


if __name__ == "__main__":
    try:
        launch(*sys.argv[1:2])
    except (ImportError, ValueError) as error:
        sys.exit(str(error))
