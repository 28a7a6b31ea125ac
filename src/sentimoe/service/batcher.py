"""The micro-batcher: texts of many requests in one call of the engine, in the order in which they came.

Requests live in the event loop; two threads work for it: one tokenises, one runs the model. A batch starts as soon as
its tokens are enough, or its oldest text has waited long enough; while the model is busy, texts gather by themselves.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Protocol, TypeVar

import numpy as np

from ..inference import Windows, return_freed_memory, softmax
from ..predictions import check_finite
from .refusals import Kind, Refusal

TEXTS_PER_RETURN = 8192  # texts between two returns of freed memory, each of which takes a few milliseconds

Found = TypeVar("Found")
Encodings = list[dict[str, list[int]]]  # the windows of one text


class TextEngine(Protocol):
    """What the batcher needs of an `Engine`."""

    num_labels: int

    def windows(self, texts: Sequence[str], long_texts: str | None = None) -> Windows: ...

    def logits(self, windows: Windows) -> tuple[np.ndarray, np.ndarray | None]: ...


@dataclass(frozen=True)
class Answers:
    """What a model says of the B texts of a request.

    probabilities, logits: `[B, C]` float32, over the windows of a text averaged by length; NaN for a text without a
    token. layers: `[B]`, how many read each text, where texts leave early. truncated: rows that were cut. tokens: read.
    """

    probabilities: np.ndarray
    logits: np.ndarray
    layers: np.ndarray | None
    truncated: list[int]
    tokens: int


@dataclass(frozen=True)
class Batch:
    """What one call of the engine was: for metrics."""

    texts: int
    tokens: int
    seconds: float


@dataclass(eq=False)
class _Request:
    """Texts that wait. sizes: their tokens. answers: (probabilities, logits, layers) of those that are through."""

    encodings: list[Encodings]
    sizes: list[int]
    since: float
    done: asyncio.Future[None]
    taken: int = 0
    answers: dict[int, Any] = field(default_factory=dict)

    def put(self, row: int, answer: Any) -> None:
        if self.done.done():
            return  # given up
        if isinstance(answer, Exception):
            self.done.set_exception(answer)
            return
        self.answers[row] = answer
        if len(self.answers) == len(self.encodings):
            self.done.set_result(None)


class Batcher:
    """Answers texts with one model, a batch at a time.

    batch_tokens: so many start a batch at once. batch_wait: seconds that a text waits for others at most, where the
    model is free. max_queue: texts that are held at once; more are refused. deadline: seconds for a request. told: is
    called with every batch.
    """

    def __init__(
        self,
        engine: TextEngine,
        *,
        batch_tokens: int = 8192,
        batch_wait: float = 0.002,
        max_queue: int = 1024,
        deadline: float = 30.0,
        told: Callable[[Batch], None] = lambda batch: None,
    ):
        self.engine, self.told = engine, told
        self.batch_tokens, self.batch_wait, self.max_queue, self.deadline = (
            batch_tokens,
            batch_wait,
            max_queue,
            deadline,
        )
        self.held = 0  # texts that are tokenised, wait or are answered
        self._open: set[_Request] = set()
        self._waiting: dict[_Request, None] = {}  # those with texts that no batch has taken, in order
        self._waiting_tokens = 0
        self._arrived = asyncio.Event()
        self._tokenising = ThreadPoolExecutor(1, "tokenise")
        self._running = ThreadPoolExecutor(1, "model")
        self._seconds_per_text = 0.001
        self._since_return = 0  # texts that were answered since freed memory was returned
        self._loop_task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, in the running event loop."""
        self._loop_task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End; requests without an answer are cancelled."""
        if self._loop_task is not None:
            self._loop_task.cancel()
            await asyncio.gather(self._loop_task, return_exceptions=True)
        for request in self._open:
            request.done.cancel()
        for threads in (self._tokenising, self._running):
            threads.shutdown(wait=True, cancel_futures=True)

    @property
    def alive(self) -> bool:
        """Whether it answers."""
        return self._loop_task is not None and not self._loop_task.done()

    async def answer(self, texts: Sequence[str], *, long_texts: str | None = None) -> Answers:
        """The answers to one request. Raises Refusal where the queue is full or the deadline has passed.

        long_texts: "windows" or "truncate"; None: as the engine reads them.
        """
        async with self._slots(len(texts)):
            loop = asyncio.get_running_loop()
            windows = await loop.run_in_executor(self._tokenising, self.engine.windows, texts, long_texts)
            encodings: list[Encodings] = [[] for _ in texts]
            for owner, encoding in zip(windows.owner, windows.encodings, strict=True):
                encodings[owner].append(encoding)
            rows = [row for row, each in enumerate(encodings) if each]
            texts_read = [encodings[row] for row in rows]
            request = _Request(texts_read, list(map(_tokens, texts_read)), loop.time(), loop.create_future())
            if rows:
                await self._answered(request)
            return self._whole(request, rows, len(texts), windows)

    async def alone(self, count: int, work: Callable[[], Found], deadline: float | None = None) -> Found:
        """Run `work`, which asks the model something else about `count` texts, between two batches.

        deadline: seconds, where some of those of the request are used up. Raises Refusal as `answer` does.
        """
        async with self._slots(count, deadline):
            return await asyncio.get_running_loop().run_in_executor(self._running, work)

    @asynccontextmanager
    async def _slots(self, count: int, deadline: float | None = None):
        """Room for some texts until the block ends, however it ends. Raises Refusal."""
        if count > self.max_queue:
            message = f"a request of {count} texts is more than the {self.max_queue} that may wait; send several"
            raise Refusal(Kind.TOO_LARGE, message)
        if self.held + count > self.max_queue:
            seconds = math.ceil(self.held * self._seconds_per_text) or 1
            raise Refusal(
                Kind.OVERLOADED,
                f"{self.held} texts are waiting, and at most {self.max_queue} may; try again in {seconds} s",
                {"Retry-After": str(seconds)},
            )
        self.held += count
        try:
            async with asyncio.timeout(self.deadline if deadline is None else deadline):
                yield
        except TimeoutError as late:
            raise Refusal(Kind.DEADLINE, f"there was no answer within {self.deadline:g} s; send fewer texts") from late
        finally:
            self.held -= count

    async def _answered(self, request: _Request) -> None:
        """Wait for the answers; a request that is given up meanwhile no longer waits."""
        self._open.add(request)
        self._waiting[request] = None
        self._waiting_tokens += sum(request.sizes)
        self._arrived.set()
        try:
            await request.done
        finally:
            self._open.discard(request)
            if request in self._waiting:
                del self._waiting[request]  # given up
                self._waiting_tokens -= sum(request.sizes[request.taken :])

    def _whole(self, request: _Request, rows: list[int], count: int, windows: Windows) -> Answers:
        shape = (count, self.engine.num_labels)
        probabilities, logits = np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32)
        layers = np.zeros(count, dtype=np.int64)
        counted = False
        for place, row in enumerate(rows):
            probabilities[row], logits[row], read = request.answers[place]
            if read is not None:
                layers[row], counted = read, True
        told = layers if counted else None
        return Answers(probabilities, logits, told, windows.truncated, sum(request.sizes))

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._ready()
            batch = self._take()
            if not batch:
                continue
            texts, started = [request.encodings[row] for request, row in batch], perf_counter()
            answers = await loop.run_in_executor(self._running, self._answers, texts)
            for (request, row), answer in zip(batch, answers, strict=True):
                request.put(row, answer)
            seconds = perf_counter() - started
            self._seconds_per_text += 0.2 * (seconds / len(batch) - self._seconds_per_text)
            self.told(Batch(len(batch), sum(request.sizes[row] for request, row in batch), seconds))

    async def _ready(self) -> None:
        """Wait for a text, and then for others, until they are enough or the first has waited long enough."""
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()
        loop = asyncio.get_running_loop()
        closes = next(iter(self._waiting)).since + self.batch_wait
        while self._waiting_tokens < self.batch_tokens and loop.time() < closes:
            self._arrived.clear()
            try:
                async with asyncio.timeout_at(closes):
                    await self._arrived.wait()
            except TimeoutError:
                return

    def _take(self) -> list[tuple[_Request, int]]:
        """The oldest texts, up to the tokens of a batch; a longer text has a batch of its own."""
        batch: list[tuple[_Request, int]] = []
        room = self.batch_tokens
        while self._waiting:
            request = next(iter(self._waiting))
            for row in range(request.taken, len(request.encodings)):
                size = request.sizes[row]
                if batch and size > room:
                    return batch
                batch.append((request, row))
                request.taken += 1
                room -= size
                self._waiting_tokens -= size
            del self._waiting[request]
        return batch

    def _answers(self, texts: list[Encodings]) -> list[Any]:
        """Of each text (probabilities, logits, layers), or the error that it causes, whatever its neighbours are."""
        try:
            return self._together(texts)
        except Exception as error:  # noqa: BLE001 - raised in the request whose text it is
            if len(texts) > 1:
                return [self._answers([text])[0] for text in texts]
            refusal = Refusal(
                Kind.FAILED, "the model has no answer for a text of this request; see the log of the service"
            )
            refusal.__cause__ = error
            return [refusal]

    def _together(self, texts: list[Encodings]) -> list[Any]:
        owner = [place for place, text in enumerate(texts) for _ in text]
        windows = Windows([encoding for text in texts for encoding in text], owner, [])
        logits, layers = self.engine.logits(windows)
        mean = windows.averaged(logits, len(texts))
        probabilities = windows.averaged(softmax(logits), len(texts))
        check_finite(probabilities, range(len(texts)))
        read = [None] * len(texts) if layers is None else windows.most(layers, len(texts)).tolist()
        self._since_return += len(texts)
        if self._since_return >= TEXTS_PER_RETURN:
            self._since_return = 0
            return_freed_memory()  # batches of ever new sizes leave holes that nothing fits into
        return list(zip(probabilities, mean, read, strict=True))


def _tokens(text: Encodings) -> int:
    return sum(len(encoding["input_ids"]) for encoding in text)
