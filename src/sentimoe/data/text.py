"""Text as a tokenizer and a file can take it."""

from typing import Any

import pandas as pd


def clean_text(text: Any) -> str:
    """A missing value (None, NaN, NA) becomes "", a lone surrogate U+FFFD, a number its digits; nothing raises."""
    if text is None or text is pd.NA or text != text:  # NaN differs from itself
        return ""
    return str(text).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
