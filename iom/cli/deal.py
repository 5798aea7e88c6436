"""The command of the dealer of a split gallery: `iom deal`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from iom._memory import forbid_core_dumps
from iom.cli._command import COUNT, Answer, HasherOptions, Quiet, counted, option, output_option, root
from iom.errors import ConfigError

if TYPE_CHECKING:
    from iom.split.correlations import Terms

command = root.section("Service")
_BY_SYMBOLS = "a split gallery compares by symbols alone"


@command(
    "deal",
    epilog="""\
Each comparison of the full protocol uses up one correlation, on both servers. Deal on a machine
that is neither server: whoever has both files can read what is compared with them. Give each server
its file, then delete them here, and leave them out of backups. A threshold that changes needs a new
deal. A file of B takes about 37 kB a comparison at 1536 positions of two symbols, one of A 48 bytes.
""",
    examples=(
        "--count 10000 --out-a a.deal --out-b b.deal",
        "--count 10000 --encoding iom-planes/1:512x8 --threshold 180 --out-a a.deal --out-b b.deal",
    ),
)
def deal(
    models: HasherOptions,
    count: Annotated[int, option("comparisons", "N", type=COUNT)],
    out_a: Annotated[Path, output_option("file for server A", folder=False)],
    out_b: Annotated[Path, output_option("file for server B", folder=False)],
    encoding: Annotated[str, option("shape of the codes, instead of a hasher's", "ENCODING")] = "",
    threshold: Annotated[int | None, option("differing positions (default: the hasher's)", "T")] = None,
    quiet: Quiet = False,
) -> Answer:
    """Deal correlations for the comparisons of a split gallery."""
    from iom._progress import tqdm
    from iom.split.correlations import deal_files

    forbid_core_dumps()
    terms = _terms(models, encoding, threshold)

    with tqdm(total=count, desc="dealing", unit="correlation", disable=quiet) as bar:
        deal_id = deal_files(terms, count, out_a, out_b, step=bar.update)
    facts = {
        "deal": deal_id.hex(),
        "count": count,
        "encoding": terms.encoding,
        "threshold": terms.threshold,
        "out_a": out_a,
        "out_b": out_b,
    }
    text = (
        f"{counted(count, 'correlation')} for {terms.encoding} at threshold {terms.threshold}: "
        f"{out_a} for A, {out_b} for B; delete both here when the servers have them"
    )
    return Answer(facts, text)


def _terms(models: HasherOptions, encoding: str, threshold: int | None) -> "Terms":
    from iom.codes.asymmetric import SYMBOLS
    from iom.codes.packing import encoding_comparison, encoding_shape
    from iom.split.correlations import Terms

    if encoding:
        if threshold is None:
            raise ConfigError("--encoding names no threshold: give --threshold, that of the gallery")
        if encoding_comparison(encoding) != SYMBOLS:
            raise ConfigError(f"--encoding: {_BY_SYMBOLS}, received {encoding}")
        return Terms(*encoding_shape(encoding), threshold)

    from iom.models.verification import threshold_at

    hasher = models.load(opens_embedder=False)
    if threshold is None:
        threshold = threshold_at(hasher.calibration, name=hasher.name)
        if hasher.comparison != SYMBOLS:
            raise ConfigError(f"{hasher.name}: {_BY_SYMBOLS}; calibrate it so: iom calibrate --comparison symbols")
    return Terms(hasher.code_length, hasher.alphabet_size, threshold)
