# SPDX-License-Identifier: Apache-2.0
"""Train U-GAT-IT: translate images between two sets without pairs.

    accelerate launch examples/train_ugatit.py --train_data_dir selfie2anime --output_dir out      # folders
    trainA and trainB accelerate launch examples/train_ugatit.py --dataset_a org/horses --dataset_b
    org/zebras --light --output_dir out accelerate launch ... --resume_from_checkpoint latest

Writes checkpoints, sample grids (original, translation, the way back, identity), log.jsonl, and at the end
`generator_a_to_b`, `generator_b_to_a` and four discriminators as diffusers folders. --fq puts codebooks into the
global discriminators (FQ-GAN). CPU smoke run: --smoke.
"""

import argparse
from pathlib import Path

import torch

from hf_ganzip.images import load_images
from hf_ganzip.models import UGATITDiscriminator, UGATITGenerator
from hf_ganzip.scripts.flags import config_flags, image_column_flag, make_parser, run_flags
from hf_ganzip.scripts.shared import apply_smoke, given, make_accelerator
from hf_ganzip.training.feature_quantization import FQ_PRESETS, FQConfig, add_feature_quantizers
from hf_ganzip.training.feature_quantizer import PRESETS
from hf_ganzip.training.translation_loop import (
    Discriminators,
    Generators,
    TranslationConfig,
    enlarge_images,
    enlarged,
    train_translation,
)


def parse_args(input_args=None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    run_flags(parser, TranslationConfig)
    add = parser.add_argument
    add("--train_data_dir", help="folder with trainA and trainB")
    add("--dataset_a", help="`datasets` id, parquet file or folder of one side")
    add("--dataset_b", help="of the other side")
    image_column_flag(parser)
    add("--resolution", type=int, default=256, help="side in pixels")
    add("--light", action="store_true", help="styles from channel means: 11M instead of 279M parameters each")
    add("--base_channels", type=int, default=64, help="widths are multiples of it")
    add("--fq", action="store_true", help="feature quantization of the global discriminators, at the published places")
    add("--fq_preset", choices=sorted(PRESETS), default="paper", help="see FeatureQuantizer")
    helps = {"learning_rate": "of all networks", "adversarial_weight": "of the discriminators' judgement"}
    helps |= {
        "cycle_weight": "of the distance after the way back",
        "identity_weight": "of that of the target's own images",
    }
    config_flags(parser, TranslationConfig, helps | {"cam_weight": "of the class activation maps"})
    add("--no_augment", dest="augment", action="store_false", help="neither mirror nor crop training images")
    args = parser.parse_args(input_args)
    if args.smoke:
        apply_smoke(args)
        args.resolution, args.base_channels, args.light = 64, 4, True
    elif bool(args.train_data_dir) == bool(args.dataset_a and args.dataset_b):
        parser.error("give --train_data_dir, or --dataset_a and --dataset_b")
    return args


def images(args: argparse.Namespace, side: str) -> torch.Tensor:
    """uint8 (N, 3, S, S) of one domain, enlarged where they will be cropped."""
    if args.smoke:
        size = enlarged(args.resolution) if args.augment else args.resolution
        random = torch.Generator().manual_seed(ord(side))
        return torch.randint(0, 256, (6, 3, size, size), generator=random, dtype=torch.uint8)
    source = (
        Path(args.train_data_dir, f"train{side}") if args.train_data_dir else getattr(args, f"dataset_{side.lower()}")
    )
    found = load_images(str(source), resolution=args.resolution, image_column=args.image_column).tensors[0]
    found = found.expand(-1, 3, -1, -1)
    return enlarge_images(found) if args.augment else found


def codebooks(preset: str) -> dict[str, FQConfig]:
    """Place -> options: where the released script has them, with its values or with those of the paper."""
    published = FQ_PRESETS["ugatit-global"]
    if preset == "official":
        return published
    # both images of a domain see the same codes
    return {place: FQConfig(config.num_codes, preset=preset, accumulate="step") for place, config in published.items()}


def main(args: argparse.Namespace) -> None:
    accelerator = make_accelerator(args, "train_ugatit")
    options = {"resolution": args.resolution, "base_channels": args.base_channels, "light": args.light}
    generators = Generators(UGATITGenerator(**options), UGATITGenerator(**options))
    networks = {
        f"{kind}_{side}": UGATITDiscriminator(base_channels=args.base_channels, num_layers=layers)
        for side in "ab"
        for kind, layers in (("global", 6 if args.smoke else 7), ("local", 5))
    }
    if args.fq:
        for side in "ab":
            add_feature_quantizers(networks[f"global_{side}"], codebooks(args.fq_preset))
    discriminators = Discriminators(**networks)
    config = TranslationConfig(**given(args, TranslationConfig))
    a, b = images(args, "A"), images(args, "B")
    parameters = generators.a_to_b.num_parameters()
    accelerator.print(f"{len(a)} and {len(b)} images; generators {parameters:,} parameters each")
    generators = train_translation(generators, discriminators, a, b, config, accelerator)
    if accelerator.is_main_process:
        for name in ("a_to_b", "b_to_a"):
            getattr(generators, name).save_pretrained(Path(args.output_dir, f"generator_{name}"))
        for name, network in networks.items():
            network.save_pretrained(Path(args.output_dir, f"discriminator_{name}"))
    accelerator.end_training()


if __name__ == "__main__":
    main(parse_args())
