# SPDX-License-Identifier: Apache-2.0
"""Extract features of images, or of samples of a model, into one file, on any number of processes.

    accelerate launch examples/extract_features.py --images FOLDER --extractor vgg16 --output features.safetensors
    accelerate launch examples/extract_features.py --model MODEL --num_samples 50000 --extractor vgg16 --output
    other.safetensors hf-ganzip evaluate features.safetensors other.safetensors

IMAGES is a folder, a parquet file, a `datasets` id or a bundled name, MODEL a folder, Hub id or bundled name. Every
chunk is kept in a cache folder as soon as it is done, so the same command goes on where an interrupted one stopped.
The file names the extractor, its digest and its resizing. CPU smoke run: --smoke (bundled images and network, a few
seconds).
"""

import argparse
import hashlib
import json
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, cat, empty

from hf_ganzip.evaluation.cache import FeatureCache
from hf_ganzip.evaluation.extractors import load_extractor
from hf_ganzip.evaluation.extractors.weights import weights_digest
from hf_ganzip.evaluation.sharded import extract_features_sharded, sample_features_sharded
from hf_ganzip.evaluation.sources import open_source, write_features
from hf_ganzip.integration.opening import load_model
from hf_ganzip.scripts.flags import make_parser


def parse_args(input_args=None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--images", help="folder, parquet file, `datasets` id or bundled name")
    add("--model", help="instead of --images: a GAN generator or diffusion UNet, sampled by all processes together")
    add("--num_samples", type=int, default=50_000, help="of the model")
    add("--seed", type=int, default=0, help="sample i depends on (seed, i)")
    add("--steps", type=int, default=50, help="of DDIM, for diffusion models")
    add("--split", default="test", help="of a `datasets` id or of a folder with such a subfolder")
    add(
        "--resolution", type=int, help="crop and resize all images to this side; by default the extractor resizes each"
    )
    add("--extractor", default="fashion_mnist", help="NAME or NAME:WEIGHTS")
    add("--output", type=Path, required=True, help=".safetensors file")
    add("--batch_size", type=int, default=256, help="images per call")
    add("--chunk", type=int, default=8192, help="images between two savings")
    add("--cache_dir", type=Path, help="where chunks are kept; default: HF_GANZIP_CACHE")
    add("--smoke", action="store_true", help="600 bundled images; no data needed")
    args = parser.parse_args(input_args)
    if args.smoke:
        args.images = "fashion-mnist-test-5000"
    if bool(args.images) == bool(args.model):
        parser.error("give --images or --model, one of them")
    return args


def features_of_images(args: argparse.Namespace, extractor, accelerator: Accelerator, cache: FeatureCache) -> Tensor:
    found = open_source(args.images, split=args.split, resolution=args.resolution, streamed=args.resolution is None)
    images = found.images if found.stream is None else found.stream
    if args.smoke:
        images, args.chunk, args.batch_size = images[:600], 256, 64
    chunks = [
        extract_features_sharded(chunk, extractor, accelerator, batch_size=args.batch_size, cache=cache)
        for chunk in images.split(args.chunk)
    ]
    return cat(chunks)


def features_of_samples(args: argparse.Namespace, extractor, accelerator: Accelerator, cache: FeatureCache) -> Tensor:
    """Of all samples, on the main process."""
    model = load_model(args.model).to(accelerator.device)
    drawn = {"model": weights_digest(model), "seed": args.seed, "steps": args.steps, "batch": args.batch_size}
    drawn |= {"extractor": extractor.digest, "resize": extractor.resize}
    chunks = []
    for first in range(0, args.num_samples, args.chunk):
        count = min(args.chunk, args.num_samples - first)
        key = hashlib.sha256(json.dumps(drawn | {"first": first, "count": count}).encode()).hexdigest()
        kept = cache.read(key) if accelerator.is_main_process else None
        if not broadcast_object_list([kept is not None])[0]:  # the main process knows, wherever its cache is
            options = {"seed": args.seed, "steps": args.steps, "batch_size": args.batch_size}
            kept = sample_features_sharded(model, count, extractor, accelerator, first=first, **options)
            if accelerator.is_main_process:
                cache.write(key, kept)
        chunks.append(kept)
    return cat(chunks) if accelerator.is_main_process else empty(0)


def main(args: argparse.Namespace) -> None:
    accelerator = Accelerator()
    extractor = load_extractor(args.extractor, accelerator.device)
    extract = features_of_images if args.images else features_of_samples
    features = extract(args, extractor, accelerator, FeatureCache(args.cache_dir))
    if accelerator.is_main_process:
        source = args.images or args.model
        conditions = {"extractor": extractor.name, "extractor_digest": extractor.digest, "resize": extractor.resize}
        args.output.parent.mkdir(parents=True, exist_ok=True)
        write_features(args.output, features, conditions | {"images": source, "count": len(features)})
        print(f"{tuple(features.shape)} features of {source} by {extractor.name} in {args.output}")
    accelerator.wait_for_everyone()


if __name__ == "__main__":
    main(parse_args())
