"""Runs where bcolz is installed, apart from this project: see foreign_data.py.

PIXELS holds RGB `(N, 112, 112, 3)` uint8; OUT becomes a carray as InsightFace.PyTorch makes it.
"""

import sys

import bcolz
import numpy as np

pixels = np.load(sys.argv[1])
values = (pixels[..., ::-1].transpose(0, 3, 1, 2).astype(np.float32) - 127.5) / 127.5
bcolz.carray(np.ascontiguousarray(values), rootdir=sys.argv[2], mode="w", chunklen=7).flush()
