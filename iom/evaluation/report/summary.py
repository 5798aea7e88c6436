"""What a report says in a few plain sentences: what holds, what does not."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from iom.baselines import BASELINES
from iom.evaluation.scores import FLOAT, NO_KEY, STOLEN_KEY

Tree = Mapping[str, Any]
GOOD, BAD, PLAIN = "good", "bad", "plain"
LITTLE_LOSS = 0.005
"""Share of an EER that a protection may cost before the summary calls it a loss."""
LINKABLE = 0.05
"""D_sys above what sampling gives, from which on templates are called linkable."""
ACCEPTED = 0.05
"""Post-revocation acceptance up to which a change of key is said to help."""


VERDICTS = {
    "kept": (GOOD, "the promise is kept"),
    "broken": (BAD, "the promise is broken"),
    "open": (PLAIN, "these data cannot tell whether the promise is kept"),
}
"""Verdicts on a promised rate: the state of the sentence and its words."""


@dataclasses.dataclass(frozen=True)
class Sentence:
    """One statement.

    Attributes:
        state: `good`, `bad` or `plain`.
        text: In plain words, with figures.
    """

    state: str
    text: str


def summary(tree: Tree) -> list[dict[str, str]]:
    """Three to six sentences from the tree of a report (see `dossier.tree`)."""
    best = best_system(tree)
    sentences = [*_accuracy(tree, best), *_promise(tree, best)]
    sentences += [*_links(tree), *_attacks(tree), *_caution(tree, best)]
    return [dataclasses.asdict(sentence) for sentence in sentences]


def figure(tree: Tree, system: str, scenario: str, metric: str) -> Mapping[str, Any] | None:
    """The row of a figure of the benchmark's pairs, `None` if there is none such."""
    place = (system, scenario, tree["benchmark"]["name"], metric)
    for row in tree["rows"]:
        if (row["system"], row["scenario"], row["protocol"], row["metric"]) == place:
            return dict(row)
    return None


def best_system(tree: Tree) -> str:
    """The protected system with the lowest EER under a stolen key; empty if none is protected.

    Of equal ones a trained hasher comes before a baseline.
    """
    found = {system: row["value"] for system in tree["systems"] if (row := figure(tree, system, STOLEN_KEY, "eer"))}
    return min(found, key=lambda name: (found[name], name in BASELINES)) if found else ""


def percent(row: Mapping[str, Any]) -> str:
    """`0.94 % [0.71, 1.20]`."""
    text = f"{100 * row['value']:.2f} %"
    if row.get("low") is None:
        return text
    return f"{text} [{100 * row['low']:.2f}, {100 * row['high']:.2f}]"


def _accuracy(tree: Tree, best: str) -> Iterator[Sentence]:
    plain = figure(tree, FLOAT, NO_KEY, "eer")
    coded = figure(tree, best, STOLEN_KEY, "eer")
    size = tree["benchmark"]
    where = f"On {size['name']} ({size['pairs']:,} pairs of {size['subjects']:,} people)"
    if plain and coded:
        loss = coded["value"] - plain["value"]
        yield Sentence(
            GOOD if loss <= LITTLE_LOSS else BAD,
            f"{where} the unprotected embedding has an equal error rate of {percent(plain)}; "
            f"the best protected code, {best}, has {percent(coded)} with the key stolen: "
            f"{100 * abs(loss):.2f} percentage points {'more' if loss >= 0 else 'less'}.",
        )
    elif row := plain or coded:
        name = best if coded else "the unprotected embedding"
        text = f"{where} {name} has an equal error rate of {percent(row)}."
        yield Sentence(PLAIN, text)
    for metric, words in (("fnmr_at_fmr_1e-3", "1,000"), ("fnmr_at_fmr_1e-2", "100")):
        row, reference = figure(tree, best, STOLEN_KEY, metric), figure(tree, FLOAT, NO_KEY, metric)
        if row:
            against = f", the unprotected embedding {percent(reference)}" if reference else ""
            yield Sentence(
                PLAIN,
                f"Where one impostor in {words} may pass, {best} turns away {percent(row)} of the "
                f"right people with the key stolen{against}.",
            )
            return


def _promise(tree: Tree, best: str) -> Iterator[Sentence]:
    entries = [entry for entry in tree["sections"]["calibration"] if entry["promised_fmr"]]
    entries.sort(key=lambda entry: entry["system"] != best)
    for entry in entries[:1]:
        state, words = VERDICTS[verdict(entry["fmr"], entry["promised_fmr"])]
        yield Sentence(
            state,
            f"At the threshold that {entry['system']} brings along, which promises that at most "
            f"{100 * entry['promised_fmr']:g} % of impostors pass, {percent(entry['fmr'])} pass "
            f"here: {words}; {percent(entry['fnmr'])} of the right people are turned away.",
        )


def verdict(rate: Mapping[str, Any], promised: float) -> str:
    """Whether a measured rate keeps to a promised one: `kept`, `broken` or `open`.

    Args:
        rate: `low` and `high`, the ends of its interval; without an interval nothing is decided.
        promised: The largest rate promised.
    """
    if rate.get("low") is None or rate.get("high") is None:
        return "open"
    if rate["high"] <= promised:
        return "kept"
    return "broken" if rate["low"] > promised else "open"


def _links(tree: Tree) -> Iterator[Sentence]:
    entries = [e for e in tree["sections"].get("linkability", []) if e["system"] != FLOAT]
    if not entries:
        return
    open_ones = [e for e in entries if e["d_sys"] - e["d_sys_floor"] > LINKABLE]
    worst = max(entries, key=lambda entry: entry["d_sys"] - entry["d_sys_floor"])
    words = f"D_sys {worst['d_sys']:.3f} of 1, where sampling alone gives {worst['d_sys_floor']:.3f}"
    if open_ones:
        names = ", ".join(entry["system"] for entry in open_ones)
        yield Sentence(
            BAD,
            f"Templates of one person under two keys can be linked by their distance: {names} "
            f"(worst: {worst['system']}, {words}).",
        )
    else:
        yield Sentence(
            GOOD,
            "Templates of one person under two keys are as far apart as those of two people: a "
            f"distance does not link them (worst: {worst['system']}, {words}).",
        )


def _attacks(tree: Tree) -> Iterator[Sentence]:
    rows: Sequence[Mapping[str, Any]] = [
        row for row in tree["sections"].get("attacks", []) if row["system"] != FLOAT and row["prar"] is not None
    ]
    if not rows:
        return
    worst: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        if row["system"] not in worst or row["prar"] > worst[row["system"]]["prar"]:
            worst[row["system"]] = row
    helped = [name for name, row in worst.items() if row["prar"] <= ACCEPTED]
    shown = ", ".join(
        f"{name} {100 * row['prar']:.0f} % ({row['attack'].replace('_', ' ')})" for name, row in worst.items()
    )
    yield Sentence(
        GOOD if len(helped) == len(worst) else BAD,
        "If template, key and model leak together, changing the key "
        + (
            "helps against the attacks that were run"
            if len(helped) == len(worst)
            else f"helps against the attacks that were run only with {', '.join(helped)}"
            if helped
            else "does not help"
        )
        + f"; share of reconstructions that pass under fresh keys, best attack: {shown}.",
    )


def _caution(tree: Tree, best: str) -> Iterator[Sentence]:
    own = figure(tree, best, "own_key", "eer")
    if own:
        yield Sentence(
            PLAIN,
            f"With every key secret {best} has an equal error rate of {percent(own)}; this says "
            "nothing about a stolen key and must not be quoted alone.",
        )
