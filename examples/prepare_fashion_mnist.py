# SPDX-License-Identifier: Apache-2.0
"""Write the reference images that ship with the library: the first images of each class of a test split.

    python examples/prepare_fashion_mnist.py --dataset_name zalando-datasets/fashion_mnist --output test-5000.parquet

The parquet file has a PNG-encoded ``image`` column and an int64 ``label`` column with the feature types of `datasets`,
so that ``load_dataset("parquet", data_files=...)`` gives images and class names. Images keep the order of the split.
"""

from __future__ import annotations

import argparse
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from tqdm.auto import tqdm

from hf_ganzip.images import read_images
from hf_ganzip.scripts.flags import make_parser


CLASS_NAMES = [
    "T - shirt / top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
]


def parse_args(input_args=None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--dataset_name", help="`datasets` id with image and label columns")
    source.add_argument("--data_dir", help="folder of Fashion-MNIST idx files")
    parser.add_argument("--output", required=True, help="parquet file to write")
    parser.add_argument("--images_per_class", type=int, default=500, help="the first of each class")
    return parser.parse_args(input_args)


def first_of_each_class(labels: np.ndarray, count: int) -> np.ndarray:
    """Sorted positions of the first ``count`` images of each class; labels (N,).

    Raises:
        ValueError: A class has fewer images.
    """
    chosen = []
    for label in np.unique(labels):
        found = np.flatnonzero(labels == label)
        if len(found) < count:
            raise ValueError(f"class {label} has {len(found)} images; images_per_class={count} needs that many.")
        chosen.append(found[:count])
    return np.sort(np.concatenate(chosen))


def encode_png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0]).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def main(args: argparse.Namespace) -> None:
    images, labels = read_images(args.dataset_name or args.data_dir, split="test")
    if labels is None:
        raise ValueError(f"{args.dataset_name or args.data_dir} has no labels; the selection needs them.")
    chosen = first_of_each_class(labels, args.images_per_class)
    cells = [{"bytes": encode_png(images[i]), "path": None} for i in tqdm(chosen, desc="encode", unit="image")]
    features = {"image": {"_type": "Image"}, "label": {"names": CLASS_NAMES, "_type": "ClassLabel"}}
    schema = pa.schema(
        {"image": pa.struct({"bytes": pa.binary(), "path": pa.string()}), "label": pa.int64()},
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    table = pa.Table.from_arrays(
        [pa.array(cells, schema.field("image").type), pa.array(labels[chosen])], schema=schema
    )
    pq.write_table(table, args.output, compression="zstd")
    print(f"{len(chosen)} images of {len(np.unique(labels))} classes in {args.output}")


if __name__ == "__main__":
    main(parse_args())
