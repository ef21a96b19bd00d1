"""The user's own images: a folder with one subfolder a class."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor

from workers.jobs.options import FolderOptions
from workers.jobs.paths import PathOutside, confine
from workers.jobs.spec import DataSpec
from workers.settings import Settings
from workers.training.datasets.paths import allowed
from workers.training.datasets.raw import Raw, RawSplit, encode_labels
from workers.training.errors import ConfigInvalid, DatasetInvalid

IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"}


def folder(spec: DataSpec, options: FolderOptions, settings: Settings) -> Raw:
    """A folder of images, one subfolder a class; or ``train`` and ``test`` with such subfolders."""
    root = allowed(spec.path, settings)
    if not root.is_dir():
        raise DatasetInvalid(f"data.path {spec.path!r} is no folder")
    train_root = root / "train" if (root / "train").is_dir() else root
    test_root = root / "test" if train_root != root and (root / "test").is_dir() else None
    files, train_labels = _image_files(train_root, root)
    labels, names = encode_labels(train_labels)
    train = RawSplit(_read_images(files, options), labels)
    test = None
    if test_root is not None:
        files, test_labels = _image_files(test_root, root)
        test = RawSplit(_read_images(files, options), encode_labels(test_labels, names)[0])
    return Raw("image", names, train, test, options.test_ratio, normalise=True)


def _image_files(root: Path, allowed_root: Path) -> tuple[list[Path], list[str]]:
    """Image files by class, sorted by name; a link that leaves the folder is refused."""
    files, labels = [], []
    for directory in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        for path in sorted(directory.rglob("*")):
            if path.suffix.lower() in IMAGES:
                try:
                    files.append(confine(path, allowed_root))
                except PathOutside as error:
                    raise DatasetInvalid(str(error)) from error
                labels.append(directory.name)
    if not files:
        raise DatasetInvalid(f"{root.name} holds no images in class folders ({', '.join(sorted(IMAGES))})")
    return files, labels


def _read_images(files: list[Path], options: FolderOptions) -> Tensor:
    """uint8 ``(n, channels, size, size)``; the size of a file is checked before it is decoded."""
    try:
        import numpy as np
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise ConfigInvalid("image folders need Pillow: pip install pillow") from error
    mode = "L" if options.channels == 1 else "RGB"
    images = torch.empty((len(files), options.channels, options.size, options.size), dtype=torch.uint8)
    for index, path in enumerate(files):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # max_pixels decides
                with Image.open(path) as image:
                    if image.width * image.height > options.max_pixels:
                        raise DatasetInvalid(
                            f"{path.name} has {image.width}x{image.height} pixels, more than max_pixels "
                            f"{options.max_pixels}"
                        )
                    small = image.convert(mode).resize((options.size, options.size), Image.Resampling.BILINEAR)
        except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise DatasetInvalid(f"cannot read image {path.name}: {error}") from error
        pixels = torch.from_numpy(np.array(small, dtype=np.uint8))
        images[index] = pixels.unsqueeze(0) if options.channels == 1 else pixels.permute(2, 0, 1)
    return images
