"""How uvicorn runs the service."""

from __future__ import annotations

from typing import Any

import uvicorn

from sentimoe_settings import ServeConfig

from .heads import Heads
from .watching import log_settings


def server_settings(app: Any, config: ServeConfig) -> uvicorn.Config:
    """Our log and our limits; every request that was taken is answered after SIGTERM, within the grace."""
    return uvicorn.Config(
        app,
        http=Heads,
        log_config=log_settings(),
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=config.grace,
    )
