# SPDX-License-Identifier: Apache-2.0
"""What a saved folder holds, as its files say, and the code that loads it."""
