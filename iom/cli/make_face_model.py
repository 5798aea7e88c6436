"""Make the face model: `iom make-face-model --images DIR` (docs/face_model.md)."""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from iom.cli.arguments import Answer, new_parser, run


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `iom make-face-model`."""
    parser = new_parser(
        "iom make-face-model",
        "Estimate the statistical face model behind the synthetic subjects from a folder "
        "<root>/<subject>/<image> of aligned 112x112 faces. Takes about a minute.",
        answers=True,
    )
    parser.add_argument(
        "--images",
        type=Path,
        default=Path("../shared/data/lfw_112x112"),
        metavar="DIR",
        help="aligned faces (default: %(default)s)",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the .npz file to write")
    parser.add_argument("--min-images", type=int, default=4, help="least images a subject (4)")
    parser.add_argument("--max-images", type=int, default=8, help="most images a subject (8)")
    parser.add_argument("--frontal", type=float, default=0.7, help="share of images kept (0.7)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return run(_make, parser, argv)


def _make(arguments: argparse.Namespace) -> Answer:
    import numpy as np

    from iom._files import check_output
    from iom.config.sections import FolderConfig
    from iom.data.folders import scan_folder
    from iom.photos.images import read_images
    from iom.synthetic.fit import fit_face_model, select_frontal

    check_output(arguments.output, folder=False)
    folder = scan_folder(FolderConfig(root=str(arguments.images), min_images=arguments.min_images))
    first = np.searchsorted(folder.labels, folder.labels)  # labels are sorted
    rows = np.flatnonzero(np.arange(len(folder)) - first < arguments.max_images)
    files = folder.files
    images = read_images([files[row] for row in rows], progress=not arguments.quiet)
    labels = folder.labels[rows]
    kept = select_frontal(images, labels, share=arguments.frontal, min_images=arguments.min_images)
    model, summary = fit_face_model(images[kept], labels[kept])
    model.save(arguments.output)
    size = arguments.output.stat().st_size
    return Answer(
        {"output": arguments.output, "bytes": size, **dataclasses.asdict(summary)},
        f"images {summary.images}, subjects {summary.subjects}\n"
        f"components {len(model.symmetric)} symmetric ({summary.symmetric_share:.1%} of variance), "
        f"{len(model.antisymmetric)} antisymmetric ({summary.antisymmetric_share:.1%})\n"
        f"wrote {arguments.output}: {size / 1e6:.2f} MB",
    )


if __name__ == "__main__":
    raise SystemExit(main())
