"""A report as one HTML page: styles, pictures and images stand within it, nothing is fetched."""

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

import yaml

from iom.evaluation.report import charts
from iom.evaluation.report.style import CSS
from iom.evaluation.report.tables import Table, tables

Tree = Mapping[str, Any]
NOTES = {
    "verification": (
        "Keys: <em>none</em> for the embedding itself; <em>stolen key</em>: impostor and victim "
        "under one key, the case that counts; <em>own key</em>: every key secret. "
    ),
    "identification": (
        "Keys stolen, one for all. Two galleries with one image of each subject, dealt in turn; "
        "all other images are looked for. DIR: enrolled people found at rank 1; FPIR: strangers of "
        "whom someone is found. "
    ),
    "linkability": (
        "D(s) of Gomez-Barrero et al. (ISO/IEC 30136): templates of one person and of two people, "
        "under two keys each. 0: a distance says nothing; 1: it says everything. Noise of a "
        "limited sample only adds, as the column <em>by sampling alone</em> tells. "
    ),
    "attacks": (
        "SAR: reconstructions accepted under the leaked key. PRAR: accepted under fresh keys, the "
        "renewed template being of the same image, or of another one of the same person. The "
        "attacker has the benchmark's other subjects to learn from. "
    ),
    "calibration": (
        "Thresholds found on other people, applied here unchanged. The FNMR there is that of the "
        "people it was found on. "
    ),
    "per_key": "A code's accuracy depends on the key; a single key says little. ",
}


def report_page(tree: Tree, *, images: Mapping[str, str] | None = None) -> str:
    """The whole page.

    Args:
        tree: Of `full_tree`.
        images: Name to `data:` address of the images to show with the worst pairs; none by default.
    """
    size, embedder = tree["benchmark"], tree["embedder"]
    title = f"{size['name']}: evaluation report"
    parts = list(_sections(tree, images or {}))
    links = "".join(f'<a href="#{name}">{escape(text)}</a>' for name, text, _ in parts)
    body = "".join(f'<section id="{name}"><h2>{escape(text)}</h2>{content}</section>' for name, text, content in parts)
    head = (
        f"<header><h1>{escape(size['name'])}</h1><p>{size['pairs']:,} pairs ({size['mated']:,} "
        f"mated, {size['non_mated']:,} non-mated) of {size['subjects']:,} subjects, "
        f"{size['images']:,} images · embedder {escape(embedder['name'])}, "
        f"{embedder['embedding_size']} dimensions · {escape(tree['created'])}</p></header>"
    )
    return document(title, f"{head}<nav>{links}</nav><main>{body}</main>")


def document(title: str, body: str) -> str:
    """A page that fetches nothing, and is told not to."""
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{CSS}</style></head><body>{body}</body></html>\n"
    )


def table_html(table: Table) -> str:
    """A table; figures to the right."""

    def row(cells: tuple[str, ...], tag: str) -> str:
        return "<tr>" + "".join(
            f'<{tag}{"" if number < table.labels else " class=n"}>{_cell(cell)}</{tag}>'
            for number, cell in enumerate(cells)
        ) + "</tr>"  # fmt: skip

    body = "".join(row(cells, "td") for cells in table.rows)
    return f'<div class="scroll"><table><thead>{row(table.header, "th")}</thead><tbody>{body}</tbody></table></div>'


def figures_html(*pictures: str) -> str:
    """Pictures side by side where there is room."""
    return '<div class="figures">' + "".join(f"<figure>{p}</figure>" for p in pictures) + "</div>"


def _sections(tree: Tree, images: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    made = {table.name: table for table in tables(tree)}
    confidence = 100 * tree["config"]["scenario"]["confidence"]
    drawn = (
        f"[low, high]: {confidence:g} % intervals, subjects and keys drawn anew; where a rate has "
        "no error, the exact binomial bound for the number of subjects."
    )

    def told(name: str) -> str:
        explained = NOTES[name] + ("" if name == "per_key" else drawn)
        return f'<p class="note">{explained}</p>{table_html(made[name])}'

    yield "summary", "Summary", _summary(tree)
    yield (
        "verification",
        "Verification",
        told("verification") + figures_html(charts.det_chart(tree), charts.roc_chart(tree)),
    )
    if "identification" in made:
        pictures = figures_html(charts.cmc_chart(tree), charts.open_set_chart(tree))
        yield "identification", "Identification", told("identification") + pictures
    yield (
        "scores",
        "Score histograms",
        '<p class="note">All test keys together; the dashed line is the decision threshold: '
        f"{escape(_origins(tree))}.</p>" + figures_html(charts.histogram_chart(tree)),
    )
    if "linkability" in made:
        picture = figures_html(charts.linkability_chart(tree))
        yield "linkability", "Unlinkability between keys", told("linkability") + picture
    if "attacks" in made:
        picture = figures_html(charts.attack_chart(tree))
        yield "attacks", "Attacks with everything disclosed", picture + told("attacks")
    if "calibration" in made:
        yield "calibration", "Calibration", told("calibration")
    if "per_key" in made:
        picture = figures_html(charts.spread_chart(tree))
        yield "per_key", "Spread over keys", picture + told("per_key")
    yield "worst_pairs", "Hardest pairs", _worst(tree, images)
    yield "environment", "Environment", _environment(tree)
    settings = yaml.safe_dump(tree["config"], sort_keys=False)
    yield "config", "Configuration", f"<pre>{escape(settings)}</pre>"


def _summary(tree: Tree) -> str:
    items = "".join(f'<li class="{escape(entry["state"])}">{escape(entry["text"])}</li>' for entry in tree["summary"])
    notes = "".join(f"<li>{escape(note)}</li>" for note in tree["notes"])
    legend = (
        '<p class="note"><span class="mark good"></span> holds &nbsp; '
        '<span class="mark bad"></span> does not hold &nbsp; <span class="mark plain"></span> for '
        "information</p>"
    )
    return f'<ul class="summary">{items}</ul>{legend}' + (f"<ul>{notes}</ul>" if notes else "")


def _origins(tree: Tree) -> str:
    found = dict.fromkeys(f"{entry['system']}: {entry['threshold_from']}" for entry in tree["sections"]["histograms"])
    return "; ".join(found)


def _worst(tree: Tree, images: Mapping[str, str]) -> str:
    parts = [
        '<p class="note">By the mean distance over keys, keys stolen. Matches: share of the keys '
        "under which the pair matches at the decision threshold.</p>"
    ]
    entries = tree["sections"]["worst_pairs"]
    for system, kind in dict.fromkeys((e["system"], e["kind"]) for e in entries):
        rows = "".join(
            "<tr>"
            + "".join(f"<td>{_named(entry[side], images)}</td>" for side in ("left", "right"))
            + f'<td class="n">{entry["distance"]:.4g}</td>'
            f'<td class="n">{100 * entry["matches"]:.0f} %</td></tr>'
            for entry in entries
            if (entry["system"], entry["kind"]) == (system, kind)
        )
        parts.append(
            f'<div class="half"><h3>{escape(system)}: {escape(kind)}</h3><div class="scroll">'
            "<table><thead><tr><th>left</th><th>right</th><th class=n>distance</th>"
            f"<th class=n>matches</th></tr></thead><tbody>{rows}</tbody></table></div></div>"
        )
    return parts[0] + '<div class="halves">' + "".join(parts[1:]) + "</div>"


def _named(name: str, images: Mapping[str, str]) -> str:
    shown = images.get(name)
    picture = f'<img src="{escape(shown)}" alt="">' if shown else ""
    return f"{picture}{escape(name)}"


def _environment(tree: Tree) -> str:
    rows = tuple((name, str(value)) for name, value in tree["environment"].items())
    embedder = tree["embedder"]
    rows += (("embedder", embedder["name"]), ("embedder SHA-256", embedder["fingerprint"]))
    rows += (("seed", str(tree["seed"])),)
    return table_html(Table("environment", "", ("what", "value"), rows, labels=2))


def _cell(text: str) -> str:
    """A figure, its interval small behind it."""
    figure, bracket, edges = text.partition(" [")
    if not bracket or not edges.endswith("]"):
        return escape(text)
    return f"{escape(figure)} <small>[{escape(edges)}</small>"
