# SPDX-License-Identifier: Apache-2.0
"""The structure of pruned models in config.json."""

import pytest
import torch

from hf_ganzip.integration.structure import apply_structure_, structure_of

from .conftest import tiny_unet


DAMAGED, FOREIGN = "the structure in config.json is damaged", "does not fit the model"


@pytest.mark.parametrize(
    "structure, message",
    [
        (None, DAMAGED),
        ([], DAMAGED),
        ({}, DAMAGED),
        ({"attributes": {}}, DAMAGED),
        ({"attributes": [], "shapes": {}}, DAMAGED),
        ({"attributes": {}, "shapes": []}, DAMAGED),
        ({"attributes": {"conv_in": ["out_channels"]}, "shapes": {}}, DAMAGED),
        ({"attributes": None, "shapes": None}, DAMAGED),
        ({"attributes": {"nothing": {"out_channels": 4}}, "shapes": {}}, FOREIGN),
        ({"attributes": {"conv_in": {"_modules": 4}}, "shapes": {}}, FOREIGN),
        ({"attributes": {"conv_in": {"forward": 3}}, "shapes": {}}, FOREIGN),
        ({"attributes": {}, "shapes": {"conv_in.wait": [4]}}, FOREIGN),
        ({"attributes": {}, "shapes": {"conv_in.weight": [4, 3, 3]}}, FOREIGN),
        ({"attributes": {}, "shapes": {"conv_in.weight": [4, 3, 3, 0]}}, FOREIGN),
    ],
    ids=str,
)
def test_structures_that_are_damaged_or_of_another_model_are_refused(structure, message):
    with pytest.raises(ValueError, match=message):
        apply_structure_(tiny_unet(), structure)


def test_applying_the_difference_gives_the_shapes():
    narrow, wide = tiny_unet(block_out_channels=(4, 8)), tiny_unet()
    apply_structure_(wide, structure_of(narrow, tiny_unet()))
    assert {k: v.shape for k, v in wide.state_dict().items()} == {k: v.shape for k, v in narrow.state_dict().items()}
    assert wide(torch.zeros(1, 3, 8, 8), 1).sample.shape == (1, 3, 8, 8)
