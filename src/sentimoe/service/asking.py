"""What every dialect does with its texts: check them, ask the model, count."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from fastapi import Request

from sentimoe_settings import ServeConfig

from ..data import clean_text
from .batcher import Answers
from .metrics import Metrics
from .models import RunningModel, RunningModels
from .refusals import Kind, Refusal

SURROGATE = re.compile("[\ud800-\udfff]")


class Asking:
    """The models of a service behind the limits of its settings."""

    def __init__(self, models: RunningModels, config: ServeConfig, metrics: Metrics):
        self.models, self.config, self.metrics = models, config, metrics

    def check(self, texts: Sequence[str], where: str) -> list[str]:
        """The texts as the model reads them. where: the name of their field.

        Raises Refusal for none, too many, or one that is too long.
        """
        if not texts:
            raise Refusal(Kind.EMPTY, f"`{where}` holds no text; give at least one")
        if len(texts) > self.config.max_texts:
            raise Refusal(
                Kind.TOO_LARGE,
                f"`{where}` holds {len(texts)} texts, and a request may hold {self.config.max_texts}; send several",
            )
        for row, text in enumerate(texts):
            if len(text) > self.config.max_characters:
                raise Refusal(
                    Kind.TOO_LARGE,
                    f"text {row} of `{where}` has {len(text)} characters, and a text may have "
                    f"{self.config.max_characters}; shorten it",
                )
            if SURROGATE.search(text):
                raise Refusal(
                    Kind.INVALID, f"text {row} of `{where}` holds half a character (a lone surrogate); mend it"
                )
        return [clean_text(text) for text in texts]

    async def answers(
        self, request: Request, model: RunningModel, texts: Sequence[str], truncate: bool = False
    ) -> Answers:
        """The answers of a model to checked texts. truncate: read only the beginning of a long text. Raises Refusal."""
        request.state.texts = getattr(request.state, "texts", 0) + len(texts)
        found = await model.batcher.answer(texts, long_texts="truncate" if truncate else "windows")
        self.metrics.answered(model.served, found)
        return found

    async def whole_answers(
        self, request: Request, model: RunningModel, texts: Sequence[str], where: str, truncate: bool = False
    ) -> Answers:
        """The same, for a dialect that has no answer for a blank text. Raises Refusal for one."""
        checked = self.check(texts, where)
        blank = next((row for row, text in enumerate(checked) if not text.strip()), None)
        if blank is not None:
            raise Refusal(
                Kind.EMPTY, f"text {blank} of `{where}` is blank, and a blank text has no label; leave it out"
            )
        found = await self.answers(request, model, checked, truncate)
        unread = np.flatnonzero(np.isnan(found.probabilities[:, 0]))
        if len(unread):
            raise Refusal(Kind.EMPTY, f"the model reads no token in text {unread[0]} of `{where}`; leave it out")
        return found
