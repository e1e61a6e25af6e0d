# SPDX-License-Identifier: Apache-2.0
"""Why a checkpoint was not opened."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or converted."""


class UnsafeCheckpointError(CheckpointError):
    """A checkpoint that asks for code, or for more memory than it has data."""


class DamagedCheckpointError(CheckpointError):
    """A truncated or contradictory checkpoint."""
