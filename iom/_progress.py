"""Progress bars: `tqdm`, which looks right in a notebook too."""

import warnings

with warnings.catch_warnings():  # that the choice is experimental, or that a notebook has no ipywidgets
    warnings.simplefilter("ignore")
    from tqdm.autonotebook import tqdm as tqdm  # that of tqdm.auto would import asyncio
