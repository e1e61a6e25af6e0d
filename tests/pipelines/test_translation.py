# SPDX-License-Identifier: Apache-2.0
"""Image in, image and heatmap out."""

import numpy as np
import pytest
import torch
from PIL import Image

import hf_ganzip as gz

from ..conftest import reopened, tiny_ugatit


@pytest.fixture
def pipe():
    pipeline = gz.ImageTranslationPipeline(tiny_ugatit())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_output_types_agree(pipe):
    images = torch.rand(2, 3, 16, 16)
    latent = pipe(images, output_type="latent")
    assert latent.images.shape == (2, 3, 16, 16) and latent.heatmaps.shape == (2, 1, 16, 16)
    assert latent.cam_logits.shape == (2, 2)
    assert latent.heatmaps.min() >= 0 and latent.heatmaps.max() <= 1 + 1e-6
    array = pipe(images, output_type="np")
    np.testing.assert_allclose(array.images[0].transpose(2, 0, 1), latent.images[0].numpy() / 2 + 0.5, atol=1e-6)
    np.testing.assert_allclose(array.heatmaps[..., 0], latent.heatmaps[:, 0].numpy(), atol=1e-6)
    pil = pipe(images)
    assert pil.images[0].size == pil.heatmaps[0].size == (16, 16) and pil.heatmaps[0].mode == "L"
    with torch.no_grad():
        assert torch.equal(pipe.generator(images * 2 - 1).sample, latent.images)


def test_pictures_of_any_size_and_kind(pipe):
    grey = Image.fromarray(np.arange(30 * 20, dtype=np.uint8).reshape(30, 20) % 255)
    colour = Image.new("RGB", (50, 40), (200, 30, 30))
    assert [image.size for image in pipe(grey).images] == [(16, 16)]
    assert pipe(colour, height=24, width=32).images[0].size == (32, 24)
    small = pipe([colour, colour], max_batch_size=1, output_type="latent").images
    torch.testing.assert_close(small[:1], small[1:])


def test_save_and_load(pipe, tmp_path):
    images = torch.rand(1, 3, 16, 16)
    sides = [each(images, output_type="latent").to_tuple() for each in (pipe, reopened(pipe, tmp_path))]
    assert all(torch.equal(*pair) for pair in zip(*sides))


def test_wrong_requests(pipe):
    with pytest.raises(ValueError, match="allowed are pil, np, pt, latent"):
        pipe(torch.rand(1, 3, 16, 16), output_type="jpg")
    full = gz.ImageTranslationPipeline(tiny_ugatit(light=False))
    with pytest.raises(ValueError, match="allowed is"):
        full(torch.rand(1, 3, 16, 16), height=24, width=24)
