# SPDX-License-Identifier: Apache-2.0
"""What the training and fine-tuning scripts in ``examples/`` share."""
