"""Everything that decides how `sentimoe serve` listens, what it refuses and how it batches."""

from __future__ import annotations

from typing import Annotated

from .base import Names, PathText, Settings, panel, settings

in_network, in_limits, in_batching = panel("Network"), panel("Limits"), panel("Batching")


@settings
class ServeConfig(Settings):
    """A service.

    Raises:
        ConfigError: a value is outside what is allowed.
    """

    host: str = in_network("127.0.0.1")
    """Address to listen on; 0.0.0.0: every address of this machine."""
    port: int = in_network(8080, ge=0, le=65535)
    """Port to listen on; 0: any free one."""
    allow_host: Annotated[tuple[str, ...], Names] = in_network((), shown="127.0.0.1, localhost, --host")
    """More names under which clients reach the service, with commas; *: any."""
    token_file: Annotated[str | None, PathText] = in_network(None, shown="SENTIMOE_TOKEN, or none")
    """File whose only line every request must bring as `Authorization: Bearer`."""
    page: bool = in_network(True)
    """Serve the page of `explore` under /. With a token there is none."""
    max_body: int = in_limits(1_000_000, ge=1)
    """Bytes of a request."""
    max_texts: int = in_limits(256, ge=1)
    """Texts of a request."""
    max_characters: int = in_limits(20_000, ge=1)
    """Characters of a text."""
    max_queue: int = in_limits(1024, ge=1)
    """Texts that wait or are answered at once, per model; more are refused (429)."""
    deadline: float = in_limits(30.0, gt=0)
    """Seconds within which a request is read and answered, or given up."""
    grace: int = in_limits(30, ge=0)
    """Seconds that requests have to end after SIGTERM."""
    batch_tokens: int = in_batching(8192, ge=1)
    """Tokens of a batch: so many start one at once."""
    batch_wait: float = in_batching(0.002, ge=0)
    """Seconds that a text waits at most for others before a free model starts."""
