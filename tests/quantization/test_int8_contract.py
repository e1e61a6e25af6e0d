# SPDX-License-Identifier: Apache-2.0
"""What int8 computing relies on in torch beyond its documented API; fails when a new version moves it."""

import pytest
import torch

from hf_ganzip.quantization import int8


OPERATORS = {
    "qconv2d_pointwise": "qx x_scale x_zero_point qw w_scale w_zero_point bias stride padding dilation groups "
    "output_scale output_zero_point output_dtype attr scalars algorithm",
    "qlinear_pointwise": "qx x_scale x_zero_point qw w_scale w_zero_point bias output_scale output_zero_point "
    "output_dtype post_op_name post_op_args post_op_algorithm",
    "qconv_prepack": "weight w_scales x_scale x_zp stride padding dilation groups x_shape",
    "qlinear_prepack": "weight x_shape",
}


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")
@pytest.mark.parametrize("name", OPERATORS)
def test_onednns_operators_take_what_they_are_given(name):
    schema = getattr(torch.ops.onednn, name).default._schema
    assert [argument.name for argument in schema.arguments] == OPERATORS[name].split()


@pytest.mark.skipif(not torch.cpu._is_vnni_supported(), reason="a processor without VNNI")
def test_onednn_sums_exactly_with_vnni():
    assert int8.onednn_is_exact()


def test_int_mm_sums_exactly():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randint(-128, 128, shape, generator=generator, dtype=torch.int8) for shape in ((24, 64), (64, 16)))
    assert torch.equal(torch._int_mm(a, b), (a.double() @ b.double()).to(torch.int32))
