"""What a report says first: whether the experts help, and things to know, each with the section that has more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

ALPHA = 0.05
BASELINES = {
    "the dense model": "the dense model",
    "their mean in place of all experts": "the same model with the mean of all experts in place of each",
    "another router": "the same model with a router that sends tokens anywhere",
}

NO_EXPERTS = (
    "This model has no experts, so what tells experts apart is left out: which of them reads what, and what is lost "
    "without them. Its answers are explained all the same."
)


def answer(found: dict[str, Any]) -> dict[str, str]:
    """`question`, `headline`, such as "No: -0.8 points, -3.1 to +1.5", and the `sentence` that says of what.

    The experts help when weighted F1 is lost without them: beside the dense model where there is one, else beside equal
    experts, else beside a random router. A dense model is asked how often it is right.
    """
    if "controls" not in found:
        scores = found["scores"]
        headline = f"{scores['accuracy']:.0%} of {scores['n']:,} answers (weighted F1 {scores['f1_weighted']:.3f})"
        return {"question": "How often is the model right?", "headline": headline, "sentence": NO_EXPERTS}
    rows = {row["name"]: row["test"] for row in found["controls"]}
    name = next(each for each in BASELINES if each in rows)
    gain, (low, high) = -rows[name]["difference"], sorted(-bound for bound in rows[name]["interval"])
    shown = "The interval includes 0, so no difference is shown."
    if low > 0 or high < 0:
        shown = "The interval lies above 0." if low > 0 else "The interval lies below 0: the experts do harm."
    verdict = "Yes" if low > 0 else "No" if gain <= 0 else "Not shown"
    return {
        "question": "Do the experts help here?",
        "headline": f"{verdict}: {points(gain)} points, {points(low)} to {points(high)}",
        "sentence": f"Weighted F1 less that of {BASELINES[name]}, with its 95% interval. {shown}",
    }


def things_to_know(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Sections and sentences."""
    if "controls" not in found:
        return [("quality", _quality(found)), ("check", _to_check(found))]
    return [
        ("quality", _quality(found)),
        ("load", _load(found)),
        ("classes", _classes(found)),
        ("knock-out", _knock_out(found)),
        ("check", _to_check(found)),
    ]


def points(share: float) -> str:
    """A difference of scores in points, with a minus sign that stays with its number."""
    return signed(100 * share)


def signed(value: float, digits: int = 1) -> str:
    """A number with its sign, which stays with it where a line is broken; 0 has none."""
    rounded = round(value, digits)
    return f"{rounded:+.{digits}f}".replace("-", "\N{MINUS SIGN}") if rounded else f"{0:.{digits}f}"


def listed(numbers: Sequence[int]) -> str:
    """Layers as a person would name them: 4 and 5, 0 to 11."""
    if len(numbers) > 2 and list(numbers) == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]} to {numbers[-1]}"
    *first, last = map(str, numbers)
    return f"{', '.join(first)} and {last}" if first else last


def quoted(name: str) -> str:
    """A name in quotes, its direction of writing kept from the rest of the sentence."""
    return f"“\N{FIRST STRONG ISOLATE}{name}\N{POP DIRECTIONAL ISOLATE}”"


def _quality(found: dict[str, Any]) -> str:
    scores, bins = found["scores"], [row for row in found["reliability"] if row["count"]]
    said = f"{scores['accuracy']:.0%} of {scores['n']:,} answers are right (weighted F1 {scores['f1_weighted']:.3f})."
    if not bins:
        return said
    count = sum(row["count"] for row in bins)
    sure, right = (sum(row["count"] * row[key] for row in bins) / count for key in ("confidence", "accuracy"))
    apart = f"{abs(100 * (sure - right)):.1f} points {'below' if sure < right else 'above'}"
    return f"{said} Its average confidence is {sure:.0%}, {apart} its accuracy."


def _load(found: dict[str, Any]) -> str:
    loads = [load for layer in found["load"] for load in layer]
    even = f"an even share is {1 / found['model']['experts']:.0%}."
    return f"The busiest expert does {max(loads):.0%} of the work of its layer, the idlest {min(loads):.0%}; {even}"


def _classes(found: dict[str, Any]) -> str:
    known = [row["layer"] for row in found["information"] if row["p_holm"] < ALPHA]
    if not known:
        return "In no layer do the experts read the classes more differently than chance explains."
    said = f"The experts of layer{'s' * (len(known) > 1)} {listed(known)} read the classes differently, beyond chance."
    cells = [
        (shares[place][expert] - _others(found, c, place, expert), c, place, expert)
        for c, shares in enumerate(found["by_class"])
        for place, layer in enumerate(found["model"]["layers"])
        for expert in range(found["model"]["experts"])
        if layer in known and found["class_p"][c][place][expert] < ALPHA and shares[place][expert] is not None
    ]
    if not cells:
        return said
    _, c, place, expert = max(cells)
    return (
        f"{said} Most of all, expert {expert} of layer {found['model']['layers'][place]} reads "
        f"{found['by_class'][c][place][expert]:.0%} of the tokens of {quoted(found['data']['labels'][c])}, and "
        f"{_others(found, c, place, expert):.0%} of those of the other classes."
    )


def _others(found: dict[str, Any], label: int, place: int, expert: int) -> float:
    """What an expert reads of the other classes, on average."""
    shares = [row[place][expert] for c, row in enumerate(found["by_class"]) if c != label]
    known = [share for share in shares if share is not None]
    return sum(known) / max(len(known), 1)


def _knock_out(found: dict[str, Any]) -> str:
    if found["knock_out"] is None:
        return "Every expert reads every token, so none can be switched off."
    cells = [(change, c, row) for row in found["knock_out"] for c, change in enumerate(row["change"])]
    worst, c, row = min(cells, key=lambda cell: cell[0])
    flipped = f"Without one expert or another, {found['flipped_by_some_expert']:.0%} of the texts change their label."
    if worst >= 0:
        return f"{flipped} No class loses F1 by it."
    label = quoted(found["data"]["labels"][c])
    return (
        f"{flipped} F1 falls most for {label}: by {-worst:.1f} points without expert {row['expert']} of layer "
        f"{row['layer']} (not tested)."
    )


def _to_check(found: dict[str, Any]) -> str:
    count, wrong = found["suspects"]["count"], found["wrong"]
    said = f"{wrong:,} of {found['scores']['n']:,} answers are wrong."
    if found["scores"]["accuracy"] < 0.5:
        return f"{said} With so many, the model cannot tell which labels are wrong; look at the top of the table."
    return f"{said} For {count:,} texts the label may be at fault; one table lists both."
