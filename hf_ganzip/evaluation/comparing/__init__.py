# SPDX-License-Identifier: Apache-2.0
"""A compressed model against its original: the sides, what is drawn from them, figures with intervals, the report."""
