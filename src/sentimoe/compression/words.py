"""What a compressed folder is worth, in words: for the terminal and for its model card."""

from __future__ import annotations

from typing import Any


def certificate_lines(about: dict[str, Any]) -> list[str]:
    """What `sentimoe_compressed.json` says of speed, certificates, quality and the search, a sentence each."""
    speed, original, lever = about["speed"], about["original"], about["lever"]
    low, high = speed["quartiles"]
    lines = [
        f"{speed['ratio']:.2f} times as fast as the original ({low:.2f} - {high:.2f}; {speed['texts_per_second']:.0f} "
        f"texts/s), with {_in_words(lever, original['precision'])}",
        f"made on {_machine(about)}",
    ]
    for each in about["certificates"]:
        lines.append(
            f"--max-disagreement {each['tolerance']:g}: with 95% confidence, at most {each['tolerance']:.2%} of the "
            f"labels of further texts of this kind (repeats counted once) differ from the original's; {each['differ']} "
            f"of {each['texts']} differed (the upper bound of this setting alone is {each['upper_bound']:.2%}; "
            f"{each['mean_layers']:.2f} layers per text)"
        )
    if len(about["certificates"]) > 1:
        lines.append("the confidence of 95% holds for each of these by itself, not for all of them together")
    main = next(each for each in about["certificates"] if each["tolerance"] == about["default_tolerance"])
    groups = {f"label {name}": each for name, each in main["by_class"].items()} | {
        "the doubtful half": main["doubtful"]
    }
    shares = [f"{name} {each['differ']} of {each['texts']}" for name, each in groups.items()]
    lines.append(
        f"labels that differ, by the original's label and in the half it is least sure of: {', '.join(shares)}"
    )
    if about.get("quality") is not None:
        lines.append(_quality(about["quality"]))
    if (all_layers := about.get("all_layers")) is not None:
        lines.append(
            f"--max-disagreement 0, where all layers read every text: {all_layers['differ']} of {all_layers['texts']} "
            "labels differed (no certificate)"
        )
    if original["precision"] != "float32":
        lines.append(
            f"the original itself, in {original['precision']} instead of float32: {original['differ']} of "
            f"{original['texts']} labels differ"
        )
    lines += [_trial(each, original["precision"]) for each in about["trials"]]
    return [*lines, *_texts(about["texts"]), f"weights of the original: SHA-256 {original['weights_sha256'][:12]}"]


def _in_words(lever: dict[str, Any], precision: str) -> str:
    exits = f"exits after {', '.join(map(str, lever['cuts']))} layers" if lever["cuts"] else "no exits"
    return f"{'int8' if lever['int8'] else precision} and {exits}"


def _machine(about: dict[str, Any]) -> str:
    machine, packages = about["hardware"], about["versions"]
    facts = [machine["processor"], *machine["bfloat16"], *machine.get("int8", [])]
    facts.append(f"{machine['threads']} thread{'s' * (machine['threads'] > 1)}")
    if "openvino" in packages:
        facts.append(f"OpenVINO {packages['openvino']}")
    return ", ".join(facts)


def _quality(quality: dict[str, Any]) -> str:
    low, high = quality["interval"]
    verdict = "ruled out" if quality["noninferior"] else "possible"
    return (
        f"weighted F1 {quality['f1_weighted']:.4f}, the original {quality['original_f1_weighted']:.4f}, on "
        f"{quality['texts']} labelled texts ({quality['difference']:+.4f}, 95% interval {low:+.4f} to {high:+.4f}): a "
        f"loss of half a point is {verdict} (one-sided, 95%)"
    )


def _trial(trial: dict[str, Any], precision: str) -> str:
    what = f"tried: {_in_words(trial['lever'], precision)}"
    if not trial["tried"]:
        return f"not {what}: no time was left"
    told = f"{what}: {trial['speed']['ratio']:.2f} times as fast, {trial['differ']:.2%} of the labels differed"
    return told if trial["within"] else f"{told}, which is too many"


def _texts(texts: dict[str, Any]) -> list[str]:
    known = texts["seen_in_training"]
    taught = f"{texts['learn']:,} taught the exits" + (f" ({known:,} of them are from its training)" if known else "")
    lines = [
        f"texts: {taught}, {texts['choose']:,} chose the settings, {texts['certify']:,} certified (SHA-256 "
        f"{texts['certify_sha256'][:12]}); left out: {texts['repeats_left_out']:,} repeated, "
        f"{texts['blank_left_out']:,} blank"
    ]
    if known is None:
        lines.append("which texts the original was trained on is unknown: if some certified, too much is promised")
    return lines
