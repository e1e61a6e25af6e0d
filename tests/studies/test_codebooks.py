# SPDX-License-Identifier: Apache-2.0
"""Analysis of codebooks: usage, maps, distances per class, pictures, pairs for people."""

import csv
import json
import math

import pytest
import torch
from PIL import Image

from hf_ganzip.studies.codebooks import (
    code_colors,
    code_maps,
    code_usage,
    distances_per_class,
    maximum_mean_discrepancy,
    quantized_features,
    save_code_maps,
)
from hf_ganzip.studies.user_study import count_votes, export_pairs
from hf_ganzip.training.feature_quantization import FQConfig, add_feature_quantizers

from ..conftest import changed, state_of, tiny_discriminator


def discriminator(codes=6):
    model = tiny_discriminator()
    add_feature_quantizers(model, {"b16": FQConfig(codes, init="normal"), "b8": FQConfig(4)})
    return model


def images(count=5, seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, 16, 16), generator=random, dtype=torch.uint8)


def test_usage_by_hand():
    model = discriminator(codes=4)
    model.codebooks["b16"].cluster_size[:] = torch.tensor([2.0, 1.0, 1.0, 0.0])
    found = code_usage(model)["b16"]
    entropy = -(0.5 * math.log(0.5) + 2 * 0.25 * math.log(0.25))
    assert found == {"codes": 4, "dead": 1, "perplexity": pytest.approx(math.exp(entropy)), "largest_share": 0.5}
    with pytest.raises(ValueError, match="has no feature quantizers"):
        code_usage(tiny_discriminator())


def test_maps_change_nothing_and_do_not_depend_on_batches():
    model = discriminator().train()
    before = state_of(model)
    labels = torch.arange(5) % 3
    maps = code_maps(model, "b16", images(), labels)
    assert maps.dtype == torch.int64 and maps.shape[0] == 5 and maps.ndim == 3 and int(maps.max()) < 6
    assert torch.equal(maps, code_maps(model, "b16", images(), labels, batch_size=2))
    assert model.training and not changed(before, model)
    with pytest.raises(ValueError, match="it has b16, b8"):
        code_maps(model, "b4", images(), labels)


def test_features_are_shares_and_mean_codes():
    model, labels = discriminator(), torch.arange(5) % 3
    shares = quantized_features(model, "b16", images(), labels)
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(5, dtype=torch.float64))
    means = quantized_features(model, "b16", images(), labels, form="mean")
    torch.testing.assert_close(means, shares @ model.codebooks["b16"].embed.double())
    with pytest.raises(ValueError, match="allowed are histogram, mean"):
        quantized_features(model, "b16", images(), labels, form="x")


@pytest.mark.parametrize("kernel", ["polynomial", "gaussian"])
def test_discrepancy(kernel):
    first, second = torch.randn(400, 3), torch.randn(400, 3)
    near = maximum_mean_discrepancy(real=first, generated=second, kernel=kernel)
    far = maximum_mean_discrepancy(real=first, generated=second + 1, kernel=kernel)
    assert abs(near) < 0.1 * far
    swapped = maximum_mean_discrepancy(real=second + 1, generated=first, kernel=kernel)
    assert swapped == pytest.approx(far, rel=1e-6)
    with pytest.raises(ValueError, match="allowed are polynomial and gaussian"):
        maximum_mean_discrepancy(real=first, generated=second, kernel="x")
    with pytest.raises(ValueError, match="generated has 1 rows; at least 2 are needed"):
        maximum_mean_discrepancy(real=first, generated=second[:1], kernel=kernel)


def test_gaussian_discrepancy_by_hand():
    """Two points a side: all distances are 1 or sqrt 2."""
    real, generated = torch.tensor([[0.0, 0], [1, 0]]), torch.tensor([[0.0, 1], [1, 1]])
    squares = torch.tensor([[0.0, 1, 1, 2], [1, 0, 2, 1], [1, 2, 0, 1], [2, 1, 1, 0]])
    k = torch.stack([(-squares / (2 * f)).exp() for f in (0.25, 0.5, 1, 2, 4)]).mean(dim=0).double()
    expected = k[0, 1] + k[2, 3] - 2 * k[:2, 2:].mean()
    found = maximum_mean_discrepancy(real=real, generated=generated, kernel="gaussian")
    assert found == pytest.approx(float(expected), abs=1e-6)


def test_distances_per_class():
    real, generated = torch.randn(60, 4), torch.randn(90, 4)
    labels, others = torch.arange(60) % 2, torch.arange(90) % 2
    generated[others == 1] += 3
    sets = {"real": real, "generated": generated, "real_labels": labels, "generated_labels": others}
    for distance in ("frechet", "mmd"):
        found = distances_per_class(**sets, distance=distance)
        assert list(found) == [0, 1] and found[1] > 10 * abs(found[0])
    with pytest.raises(ValueError, match="class 0 has 30 real and 0 generated"):
        distances_per_class(**sets | {"generated_labels": others * 0 + 7})
    with pytest.raises(ValueError, match="allowed are frechet and mmd"):
        distances_per_class(**sets, distance="x")


@pytest.mark.parametrize("count", [10, 24])
def test_similar_codes_have_similar_colors_and_dead_ones_are_grey(count):
    line = torch.arange(count, dtype=torch.float32)[:, None] * torch.ones(1, 5)
    live = torch.ones(count, dtype=torch.bool)
    live[2] = False
    colors = code_colors(line, live)
    assert colors[2].tolist() == [128, 128, 128] and len({tuple(c) for c in colors.tolist()}) == count
    if count < 11:  # ordered by their principal component
        ends = (colors[0].int() - colors[-1].int()).abs().sum()
        assert all((colors[i].int() - colors[i + 1].int()).abs().sum() < ends for i in range(3, count - 1))
    assert torch.equal(colors, code_colors(line, live))
    assert code_colors(line, torch.zeros(count, dtype=torch.bool)).unique().tolist() == [128]


def test_pictures(tmp_path):
    model = discriminator()
    model.codebooks["b16"].cluster_size[:] = 1
    labels = {"real_labels": torch.arange(5) % 3, "generated_labels": torch.arange(3)}
    save_code_maps(model, "b16", images(), images(3, 1), tmp_path / "deep" / "maps.png", **labels)
    with Image.open(tmp_path / "deep" / "maps.png") as picture:
        assert picture.mode == "RGB" and picture.size[0] > picture.size[1] > 0


def test_pairs_for_people_are_exported_and_counted(tmp_path):
    systems = {"ours": images(20), "theirs": images(20, 1)}
    shown = {"sources": images(20, 2), "exemplars": images(9, 3), "question": "Better <cat>?"}
    export_pairs(tmp_path / "study", systems, **shown)
    page = (tmp_path / "study" / "index.html").read_text()
    assert "Better &lt;cat&gt;?" in page and "ours" not in page and page.count("<tr>") == 20
    key = json.loads((tmp_path / "study" / "key.json").read_text())
    assert {side["left"] for side in key.values()} == {"ours", "theirs"}
    assert (tmp_path / "study" / "images" / "0-source.png").is_file()
    rows = [("row", "rater", "answer")]
    for row, sides in key.items():  # all raters prefer "ours" in 15 rows
        wanted = "ours" if int(row) < 15 else "theirs"
        rows += [(row, rater, side) for rater in "abc" for side, name in sides.items() if name == wanted]
    with open(tmp_path / "study" / "answers.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    expected = {"images": 15, "share": 0.75, "low": 0.5313, "high": 0.8881}
    assert count_votes(tmp_path / "study")["ours"] == pytest.approx(expected, abs=1e-4)


def test_wrong_pairs_and_answers(tmp_path):
    pair = {"ours": images(3), "theirs": images(3, 1)}
    with pytest.raises(ValueError, match="two systems"):
        export_pairs(tmp_path, pair | {"theirs": images(4)})
    export_pairs(tmp_path, pair)
    with pytest.raises(ValueError, match="is not empty"):
        export_pairs(tmp_path, pair)
    with pytest.raises(ValueError, match="nothing was decided"):
        count_votes(tmp_path)
    (tmp_path / "answers.csv").write_text("row,rater,answer\n0,a,middle\n")
    with pytest.raises(ValueError, match="allowed are left and right"):
        count_votes(tmp_path)
