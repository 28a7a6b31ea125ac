"""The micro-batcher: every request gets its own answers, in time or not at all, and leaves nothing behind."""

import asyncio
import threading
import time

import numpy as np
import pytest
from stub_service import StubEngine

from sentimoe.inference import softmax
from sentimoe.service import Batcher, Kind, Refusal


def run(work, engine=None, **settings):
    """`await work(batcher)` with a batcher that runs."""

    async def whole():
        batcher = Batcher(engine or StubEngine(), **settings)
        batcher.start()
        try:
            return await work(batcher)
        finally:
            await batcher.stop()

    return asyncio.run(whole())


class HeldEngine(StubEngine):
    """Its first batch ends when `go` is set, so that a test decides what comes while the model is busy."""

    def __init__(self):
        super().__init__()
        self.go = threading.Event()

    def logits(self, windows):
        found = super().logits(windows)
        assert self.go.wait(10)
        return found


async def until(condition):
    """Wait, 10 seconds at most."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


def expected(texts):
    engine = StubEngine()
    windows = engine.windows(texts)
    return windows.averaged(softmax(engine.logits(windows)[0]), len(texts))


def test_every_text_gets_its_own_answer():
    """Kinds: rows of two requests exchanged; windows of a long text given to its neighbour; a blank one counted."""
    requests = [
        [f"text {i} of {n} " + "word " * (i * 7 % 40) for i in range(n)] + ["", "one"] * (n % 3) for n in range(1, 30)
    ]

    async def ask(batcher):
        return await asyncio.gather(*(batcher.answer(texts) for texts in requests))

    for texts, found in zip(requests, run(ask, batch_tokens=50), strict=True):
        np.testing.assert_allclose(found.probabilities, expected(texts), atol=1e-6)
        assert found.tokens == sum(len(text.split()) for text in texts)


def test_texts_gather_while_the_model_is_busy():
    engine, told = HeldEngine(), []

    async def ask(batcher):
        tasks = [asyncio.create_task(batcher.answer(["first"]))]
        await until(lambda: engine.batches)
        tasks += [asyncio.create_task(batcher.answer([f"text {i}"])) for i in range(30)]
        await until(lambda: len(batcher._waiting) == 30)
        engine.go.set()
        await asyncio.gather(*tasks)

    run(ask, engine, batch_wait=0.0, told=told.append)
    assert engine.batches == [1, 30] and [(each.texts, each.tokens) for each in told] == [(1, 1), (30, 60)]


def test_freed_memory_goes_back_again_and_again(monkeypatch):
    """Kind: a service that grows for half an hour, because batches of ever new sizes leave holes."""
    returned = []
    monkeypatch.setattr("sentimoe.service.batcher.TEXTS_PER_RETURN", 10)
    monkeypatch.setattr("sentimoe.service.batcher.return_freed_memory", lambda: returned.append(threading.get_ident()))

    async def ask(batcher):
        for _ in range(6):
            await batcher.answer(["a", "b", "c", "d"])

    run(ask)
    assert len(returned) == 2 and threading.get_ident() not in returned  # after 12 and 24 texts, not in the event loop


def test_a_batch_ends_at_its_tokens_and_a_free_model_waits_no_longer_than_told():
    engine = StubEngine()

    async def ask(batcher):
        loop = asyncio.get_running_loop()
        started = loop.time()
        await batcher.answer(["one two three"] * 8)  # 24 tokens: no need to wait
        enough = loop.time() - started
        await asyncio.gather(batcher.answer(["a"]), batcher.answer(["b"]))
        return enough, loop.time() - started - enough

    enough, waited = run(ask, engine, batch_tokens=10, batch_wait=0.5)
    assert engine.batches == [3, 3, 2, 2] and enough < 0.9 and waited >= 0.49


def test_the_queue_counts_texts_and_says_when_to_come_again():
    engine = StubEngine(seconds_per_batch=0.05)

    async def ask(batcher):
        tasks = [asyncio.create_task(batcher.answer([f"text {i}"] * 4)) for i in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Refusal, match="8 texts are waiting, and at most 10 may") as full:
            await batcher.answer(["x"] * 3)
        await batcher.answer(["x"] * 2)  # there is room for two
        await asyncio.gather(*tasks)
        return full.value, batcher.held

    refusal, held = run(ask, engine, max_queue=10)
    assert refusal.kind is Kind.OVERLOADED and refusal.headers == {"Retry-After": "1"} and held == 0


def test_a_request_beyond_its_deadline_is_given_up_and_not_run():
    engine = HeldEngine()

    async def ask(batcher):
        first = asyncio.create_task(batcher.answer(["first"]))
        await until(lambda: engine.batches)
        batcher.deadline = 0.02
        with pytest.raises(Refusal) as late:
            await batcher.answer(["late"])
        held = batcher.held
        engine.go.set()
        await first
        await asyncio.sleep(0.05)
        return late.value.kind, held

    assert run(ask, engine, batch_wait=0.0) == (Kind.DEADLINE, 1)
    assert engine.batches == [1]


def test_cancelled_requests_leave_no_slot_and_are_not_run():
    engine = HeldEngine()

    async def ask(batcher):
        first = asyncio.create_task(batcher.answer(["first"]))
        await until(lambda: engine.batches)
        tasks = [asyncio.create_task(batcher.answer([f"text {i}"] * 2)) for i in range(100)]
        await until(lambda: len(batcher._waiting) == 100)
        for task in tasks[:-1]:
            task.cancel()
        await until(lambda: len(batcher._waiting) == 1)
        engine.go.set()
        await asyncio.gather(*tasks, first, return_exceptions=True)
        return batcher.held, batcher._waiting_tokens, tasks[-1].result().probabilities.shape

    assert run(ask, engine, batch_wait=0.0) == (0, 0, (2, 3))
    assert engine.batches == [1, 2]


@pytest.mark.parametrize("word", ["broken", "nan"])
def test_an_error_of_one_text_reaches_its_request_alone(word):
    async def ask(batcher):
        return await asyncio.gather(
            batcher.answer(["good", "fine"]),
            batcher.answer(["bad", word]),
            batcher.answer(["well"]),
            return_exceptions=True,
        )

    good, bad, well = run(ask)
    np.testing.assert_allclose(
        np.concatenate([good.probabilities, well.probabilities]), expected(["good", "fine", "well"])
    )
    assert isinstance(bad, Refusal) and bad.kind is Kind.FAILED and bad.__cause__ is not None


def test_a_long_text_is_cut_where_that_is_asked():
    text = "word " * 40

    async def ask(batcher):
        return await batcher.answer(["a", text], long_texts="truncate"), await batcher.answer([text])

    cut, whole = run(ask)
    assert cut.truncated == [1] and cut.tokens == 17 and whole.truncated == [] and whole.tokens == 40


def test_layers_are_those_of_each_text():
    async def ask(batcher):
        return await asyncio.gather(*(batcher.answer(["a " * count, ""]) for count in range(1, 7)))

    found = run(ask, StubEngine(layers=True))
    assert [each.layers.tolist() for each in found] == [[1 + count % 3, 0] for count in range(1, 7)]


def test_work_alone_runs_between_batches():
    """Kind: a trace that runs beside a batch, on the same model."""
    engine = StubEngine(seconds_per_batch=0.03)

    async def ask(batcher):
        task = asyncio.create_task(batcher.answer(["text"]))
        await until(lambda: engine.batches)
        name = await batcher.alone(2, lambda: (threading.current_thread().name, len(engine.batches)))
        await task
        return name

    name, batches = run(ask, engine, batch_wait=0.0)
    assert name.startswith("model") and batches == 1


def test_what_a_request_has_left_bounds_its_second_question():
    """Kind: the deadline of a request counts anew for its routing."""

    async def ask(batcher):
        with pytest.raises(Refusal) as late:
            await batcher.alone(1, lambda: time.sleep(0.2), 0.02)
        return late.value.kind

    assert run(ask) is Kind.DEADLINE


def test_stopping_ends_what_waits():
    async def ask():
        batcher = Batcher(StubEngine(seconds_per_batch=0.05), batch_wait=0.0)
        batcher.start()
        tasks = [asyncio.create_task(batcher.answer(["x"])) for _ in range(3)]
        await asyncio.sleep(0.01)
        alive = batcher.alive
        await batcher.stop()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        return alive, batcher.alive, {type(each) for each in found}

    assert asyncio.run(asyncio.wait_for(ask(), 5)) == (True, False, {asyncio.CancelledError})
