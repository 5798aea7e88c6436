# ruff: noqa
"""Runs under MXNet's own Python (3.8), apart from this project: see foreign_data.py.

    python foreign_mxnet.py write IMAGES.txt OUT     # lines "label<TAB>file"; three data sets
    python foreign_mxnet.py read FILE.bin            # InsightFace's way; SHA-256 of pixels

No type annotations of newer Pythons here.
"""

import hashlib
import json
import os
import pickle
import struct
import sys

import mxnet as mx
import numpy as np

MAGIC = struct.pack("<I", 0xCED7230A)


def write(listing, out):
    """RecordIO with identity ranges, RecordIO without, and a `.bin`."""
    with open(listing) as stream:
        rows = [line.rstrip("\n").split("\t") for line in stream]
    rows = [(int(label), open(name, "rb").read()) for label, name in rows]
    # Bytes after the end of an image that hold the magic number make a record of several parts.
    label, data = rows[0]
    rows[0] = (label, data + b"\0" * (-len(data) % 4) + MAGIC + b"\0\0\0\0" + MAGIC)
    write_ranges(rows, os.path.join(out, "ranges"))
    write_plain(rows, os.path.join(out, "plain"))
    images, same = [], []
    for (a, first), (b, second) in zip(rows, rows[1:]):
        images += [first, second]
        same.append(a == b)
    with open(os.path.join(out, "pairs.bin"), "wb") as stream:
        pickle.dump((images, same), stream, protocol=pickle.HIGHEST_PROTOCOL)
    pixels = [hashlib.sha256(decode(data)).hexdigest() for _, data in rows]
    with open(os.path.join(out, "pixels.json"), "w") as stream:
        json.dump({"pixels": pixels, "labels": [label for label, _ in rows], "same": same}, stream)


def write_ranges(rows, folder):
    """As InsightFace: images from 1, then a record for each identity; record 0 tells where."""
    os.makedirs(folder)
    record = opened(folder)
    labels = sorted({label for label, _ in rows})
    ranges = []
    end = 1 + len(rows)
    header = mx.recordio.IRHeader(0, np.array([end, end + len(labels)], np.float32), 0, 0)
    record.write_idx(0, mx.recordio.pack(header, b""))
    for key, (label, data) in enumerate(rows, 1):
        record.write_idx(key, mx.recordio.pack(mx.recordio.IRHeader(0, label, key, 0), data))
    for label in labels:
        keys = [key for key, (own, _) in enumerate(rows, 1) if own == label]
        ranges.append((keys[0], keys[-1] + 1))
    for key, pair in enumerate(ranges, end):
        header = mx.recordio.IRHeader(0, np.array(pair, np.float32), key, 0)
        record.write_idx(key, mx.recordio.pack(header, b""))
    record.close()
    with open(os.path.join(folder, "property"), "w") as stream:
        stream.write("%d,112,112" % len(labels))


def write_plain(rows, folder):
    """As im2rec: keys from 0, labels as arrays of one number."""
    os.makedirs(folder)
    record = opened(folder)
    for key, (label, data) in enumerate(rows):
        header = mx.recordio.IRHeader(0, np.array([label], np.float32), key, 0)
        record.write_idx(key, mx.recordio.pack(header, data))
    record.close()


def opened(folder):
    """A new indexed file."""
    names = (os.path.join(folder, "train.idx"), os.path.join(folder, "train.rec"))
    return mx.recordio.MXIndexedRecordIO(*names, "w")


def read(path):
    """As `load_bin` of InsightFace."""
    with open(path, "rb") as stream:
        images, same = pickle.load(stream, encoding="bytes")
    print(
        json.dumps(
            {"pixels": [hashlib.sha256(decode(i)).hexdigest() for i in images], "same": [bool(item) for item in same]}
        )
    )


def decode(data):
    """RGB bytes."""
    return mx.image.imdecode(data).asnumpy().tobytes()


if __name__ == "__main__":
    {"write": write, "read": read}[sys.argv[1]](*sys.argv[2:])
