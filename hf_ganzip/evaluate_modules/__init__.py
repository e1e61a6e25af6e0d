# SPDX-License-Identifier: Apache-2.0
"""Our metrics as modules of the library `evaluate`, whose published folders are in ``metrics_hub``."""
