# SPDX-License-Identifier: Apache-2.0
"""Fine-tune a pruned StyleGAN3 by distillation from the full one.

    accelerate launch examples/finetune_stylegan3.py --pretrained_model_name_or_path org/stylegan3 --recipe
    examples/recipes/svs-stylegan2.yaml \\
        --dataset_name org/images --output_dir out

As finetune_stylegan2.py, with the published StyleGAN3 values: adaptive augmentation, no
path length, no style mixing. CPU smoke run: --smoke.
"""

import argparse
import sys
from pathlib import Path

import hf_ganzip as gz
from hf_ganzip.scripts.finetuning import parse_finetune_args


sys.path.insert(0, str(Path(__file__).parent))

from finetune_stylegan2 import distillation_parser, main


def parse_args(input_args=None) -> argparse.Namespace:
    return parse_finetune_args(distillation_parser(__doc__, "svs-stylegan3-t"), input_args)


def smoke_generator():
    return gz.StyleGAN3Generator(
        resolution=32, z_dim=8, w_dim=8, num_classes=2, channel_base=64, channel_max=8, num_layers=6, image_channels=1
    )


if __name__ == "__main__":
    main(parse_args(), smoke_generator)
