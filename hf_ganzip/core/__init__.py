# SPDX-License-Identifier: Apache-2.0
"""What every room uses: names and registries, records and reports, folders of models, networks of pipelines, seeds."""
