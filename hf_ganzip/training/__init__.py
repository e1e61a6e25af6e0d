# SPDX-License-Identifier: Apache-2.0
"""Losses, data and loops to train generators with Accelerate."""
