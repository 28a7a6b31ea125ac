"""`sentimoe predict` for texts that are read at once: arguments, lines of standard input, or one small file."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .many import NO_THRESHOLD, check_lines, invite, warn_of_dials
from .messages import Mistake, say, takes_unicode
from .places import WRITTEN, check_file, check_model, check_standard_output

if TYPE_CHECKING:
    import pandas as pd


def label_few(
    model: str,
    texts: list[str],
    input_file: Path | None,
    output: Path | None,
    settings: dict[str, Any],
    *,
    note: str | None,
    method: str | None,
    labels: str | None,
    mode: str,
    text_column: str | None,
    delimiter: str | None,
    encoding: str | None,
    all_answers: bool,
    probabilities: bool,
    overwrite: bool,
    doubtful: Path | None,
    trust_remote_code: bool,
    verify: bool,
) -> None:
    """Label the texts, or the rows of the file, or without either the lines of standard input.

    output: None writes JSON lines to standard output. settings: of the classifier. note: what to say before it is
    loaded. Raises Mistake and the package's errors.
    """
    of_files = {"--text-column": text_column, "--delimiter": delimiter, "--encoding": encoding}
    if texts and (given := [name for name, value in of_files.items() if value is not None]):
        raise Mistake(f"{given[0]} says how a file is read, and texts are given as arguments; leave it out")
    if not texts and input_file is None:
        check_lines(text_column, delimiter, encoding)
    if output is None:
        check_standard_output()
    else:
        check_file(output, WRITTEN, overwrite)
    if doubtful is not None:
        check_file(doubtful, WRITTEN, overwrite)
        if output is not None and doubtful.resolve() == output.resolve():
            raise Mistake(f"--output and --doubtful are both {output}; give two files")
    if method is None:
        check_model(model)
    if note is not None:
        say(f"note: {note}")
    import numpy as np
    import pandas as pd

    from sentimoe.data import json_lines, read_texts, write_table
    from sentimoe.data.predicted import STRING, made_up, named_domains, with_predictions
    from sentimoe.errors import ConfigError
    from sentimoe.model_folder import find_folder

    from .certificates import certificate_for, warn_of_drift
    from .models import load_model, usual_format
    from .show import prepare_process
    from .stream import predictions_with_bar
    from .trial import try_writing

    prepare_process()
    if method is None:
        model = str(find_folder(model))
    if input_file is not None:
        frame, rows = read_texts(input_file, text_column, usual_format(model, encoding, delimiter))
    else:
        rows = list(map(_decoded, texts)) or _lines_of_standard_input(encoding or "utf-8")
        frame = pd.DataFrame({"text": pd.Series(rows, dtype=STRING)})
    names = [label.strip() for label in labels.split(",")] if labels else []
    classifier = load_model(model, method, names, mode, "", trust_remote_code, verify, **settings)
    engine, classes = classifier.engine, classifier.classes_.tolist()
    threshold = None if method is not None or all_answers else _threshold_of(Path(model), settings.get("domain"))
    if threshold is not None:
        warn_of_dials(model, settings)
    if doubtful is not None and threshold is None:
        raise ConfigError(NO_THRESHOLD.format(model))
    cut: list[int] | None = [] if settings["long_texts"] == "truncate" else None
    how = (settings["max_disagreement"], settings["precision"], settings["long_texts"])
    certificate = certificate_for(model, *how) if method is None else None

    nowhere = ([None] * len(rows), np.full(len(rows), np.nan)) if classifier.domains else None
    layers = None if certificate is None else np.zeros(len(rows), dtype=np.int64)
    invented, unknown = made_up(len(rows), engine.num_labels), [None] * len(rows)
    likely = with_predictions(frame, classes, invented, cut, threshold, layers, unknown, probabilities, nowhere)
    try_writing(likely, output)

    predictions = predictions_with_bar(engine, rows)
    if predictions.truncated:
        cut = predictions.truncated
        say(f"warning: {len(cut)} texts were cut at {engine.max_length} tokens")
    answered, layers = predictions.probabilities, predictions.layers
    reasons = [
        None if known else "no label" if method is not None and text.strip() else "blank"
        for text, known in zip(rows, ~np.isnan(answered[:, 0]), strict=True)
    ]
    told = named_domains(classifier.domains, predictions.domains, predictions.domain_scores)
    frame = with_predictions(frame, classes, answered, cut, threshold, layers, reasons, probabilities, told)
    if certificate is not None and layers is not None:
        warn_of_drift(certificate, layers)
    if threshold is not None:
        low = int((frame["reason"] == "doubtful").sum())
        say(f"{len(frame) - int(frame['label'].isna().sum())} of {len(frame)} rows have a label; {low} are doubtful")
    if output is None:
        sys.stdout.writelines(json_lines(frame, ascii_only=not takes_unicode(sys.stdout)))
    else:
        write_table(frame, output, overwrite)
        say(f"{len(frame)} row{'s' * (len(frame) != 1)} written to {output}")
    if doubtful is not None and threshold is not None:
        _write_queue(frame, doubtful, overwrite, threshold)


def _threshold_of(folder: Path, domain: str | None) -> float | None:
    """The score under which a model gives no label."""
    from sentimoe.model_folder import THRESHOLD

    if not (folder / THRESHOLD).exists():
        return None
    from sentimoe.evaluation import Threshold  # brings scipy and scikit-learn

    stored = Threshold.load(folder, domain)
    return None if stored is None else stored.value


def _write_queue(frame: pd.DataFrame, path: Path, overwrite: bool, threshold: float) -> None:
    from sentimoe.batch.review import review_queue
    from sentimoe.data import write_table

    queue = review_queue(frame)
    write_table(queue, path, overwrite)
    say(f"{len(queue)} doubtful rows, of a score below {threshold:.3f}, written to {path}")


def _decoded(argument: str) -> str:
    """An argument as UTF-8 also where the locale is C, in which Python keeps its bytes as surrogates."""
    try:
        argument.encode()
    except UnicodeEncodeError:
        return os.fsencode(argument).decode("utf-8", "replace")
    return argument


def _lines_of_standard_input(encoding: str) -> list[str]:
    """Lines as `wc -l` and `paste` count them: a text may hold other characters that end a line elsewhere."""
    invite()
    data = sys.stdin.buffer.read()
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        say(
            f"warning: standard input is not {encoding.upper()}, first in line {line}; what cannot be read becomes U+FFFD"
        )
        text = data.decode(encoding, "replace")
    lines = text.removeprefix("\ufeff").split("\n")
    return [line.removesuffix("\r") for line in (lines if lines[-1] else lines[:-1])]
