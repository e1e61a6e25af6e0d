# SPDX-License-Identifier: Apache-2.0
"""Studies of many models: compression, correlation, codebooks, people's judgements, outliers, repeated runs."""
