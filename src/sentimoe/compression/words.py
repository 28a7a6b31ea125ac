"""What a compressed folder is worth, in words: for the terminal and for its model card."""

from __future__ import annotations

from typing import Any


def certificate_lines(about: dict[str, Any]) -> list[str]:
    """What `sentimoe_compressed.json` says of speed, certificates and quality, a sentence each."""
    speed, original, lever = about["speed"], about["original"], about["lever"]
    low, high = speed["quartiles"]
    exits = f"exits after {', '.join(map(str, lever['cuts']))} layers" if lever["cuts"] else "no exits"
    lines = [
        f"{speed['ratio']:.2f} times as fast as the original ({low:.2f} - {high:.2f}; {speed['texts_per_second']:.0f} "
        f"texts/s), with {'int8' if lever['int8'] else original['precision']} and {exits}",
    ]
    for each in about["certificates"]:
        lines.append(
            f"{each['differ']} of {each['texts']} labels differ from the original's; with 95% confidence, at most "
            f"{each['upper_bound']:.2%} of further texts of this kind do (--max-disagreement {each['tolerance']:g}, "
            f"{each['mean_layers']:.2f} layers per text)"
        )
    main = next(each for each in about["certificates"] if each["tolerance"] == about["default_tolerance"])
    groups = {f"label {name}": each for name, each in main["by_class"].items()} | {
        "the doubtful half": main["doubtful"]
    }
    shares = [f"{name} {each['differ']} of {each['texts']}" for name, each in groups.items()]
    lines.append(
        f"labels that differ, by the original's label and in the half it is least sure of: {', '.join(shares)}"
    )
    if (quality := about.get("quality")) is not None:
        low, high = quality["interval"]
        small = (
            "a loss of half a point is ruled out" if quality["noninferior"] else "a loss of half a point is possible"
        )
        lines.append(
            f"weighted F1 {quality['f1_weighted']:.4f}, the original {quality['original_f1_weighted']:.4f}, on "
            f"{quality['texts']} labelled texts ({quality['difference']:+.4f}, 95% interval {low:+.4f} to "
            f"{high:+.4f}): {small} (one-sided, 95%)"
        )
    lines.append(
        f"the original itself, in {original['precision']} instead of float32: {original['differ']} of "
        f"{original['texts']} labels differ"
    )
    return lines
