"""A dialect: how the clients of one program ask, and what they expect where they are refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from ..asking import Asking
from ..refusals import Kind, Refusal


@dataclass(frozen=True)
class Dialect:
    """routes: its addresses. body: of a refusal, from its kind, its status and the reason. statuses: those that differ
    from the usual ones."""

    name: str
    routes: Callable[[Asking], APIRouter]
    body: Callable[[Kind, int, str], dict[str, Any]]
    statuses: Mapping[Kind, int] = field(default_factory=dict)

    def refused(self, refusal: Refusal) -> JSONResponse:
        """The answer that says why there is none."""
        status = self.statuses.get(refusal.kind, refusal.kind.value)
        return JSONResponse(self.body(refusal.kind, status, refusal.message), status, refusal.headers)
