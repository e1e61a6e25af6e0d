# SPDX-License-Identifier: Apache-2.0
"""Extract features of images into one file, on any number of processes.

    accelerate launch examples/extract_features.py --images FOLDER --extractor vgg16 --output features.safetensors
    hf-ganzip evaluate features.safetensors other.safetensors

IMAGES is a folder, a parquet file, a `datasets` id or a bundled name. Every chunk of images is kept in a cache folder as soon as it
is done, so the same command goes on where an interrupted one stopped. The file names the extractor, its digest and its resizing.
CPU smoke run: --smoke (bundled images and network, a few seconds).
"""

import argparse
from pathlib import Path

from accelerate import Accelerator
from torch import cat

from hf_ganzip.evaluation.cache import FeatureCache
from hf_ganzip.evaluation.extractors import load_extractor
from hf_ganzip.evaluation.reference import load_reference
from hf_ganzip.evaluation.sharded import extract_features_sharded
from hf_ganzip.evaluation.sources import write_features


def parse_args(input_args=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--images", help="folder, parquet file, `datasets` id or bundled name")
    add(
        "--split",
        default="test",
        help="of a `datasets` id or of a folder with such a subfolder (default: %(default)s)",
    )
    add("--resolution", type=int, help="crop and resize all images to this side; by default they must have one size")
    add("--extractor", default="fashion_mnist", help="NAME or NAME:WEIGHTS (default: %(default)s)")
    add("--output", type=Path, required=True, help=".safetensors file")
    add("--batch_size", type=int, default=256, help="images per call (default: %(default)s)")
    add("--chunk", type=int, default=8192, help="images between two savings (default: %(default)s)")
    add("--cache_dir", type=Path, help="where chunks are kept (default: HF_GANZIP_CACHE)")
    add("--smoke", action="store_true", help="600 bundled images; no data needed")
    args = parser.parse_args(input_args)
    if args.smoke:
        args.images = "fashion-mnist-test-5000"
    if not args.images:
        parser.error("give --images")
    return args


def main(args: argparse.Namespace) -> None:
    accelerator = Accelerator()
    images = load_reference(args.images, split=args.split, resolution=args.resolution)[0]
    if args.smoke:
        images, args.chunk, args.batch_size = images[:600], 256, 64
    extractor = load_extractor(args.extractor, accelerator.device)
    cache = FeatureCache(args.cache_dir)
    chunks = [
        extract_features_sharded(chunk, extractor, accelerator, batch_size=args.batch_size, cache=cache)
        for chunk in images.split(args.chunk)
    ]
    if accelerator.is_main_process:
        features = cat(chunks)
        conditions = {"extractor": extractor.name, "extractor_digest": extractor.digest, "resize": extractor.resize}
        args.output.parent.mkdir(parents=True, exist_ok=True)
        write_features(args.output, features, conditions | {"images": args.images, "count": len(features)})
        print(f"{tuple(features.shape)} features of {args.images} by {extractor.name} in {args.output}")
    accelerator.wait_for_everyone()


if __name__ == "__main__":
    main(parse_args())
