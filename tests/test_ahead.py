"""The next chunk is prepared while the caller works on this one; order and errors are those of a plain loop."""

from threading import Event, current_thread, main_thread

import pytest

from sentimoe.inference.ahead import prepared_ahead


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_every_chunk_once_and_in_order(count):
    assert list(prepared_ahead(range(1, count + 1), lambda chunk: chunk * 10)) == [
        (chunk, chunk * 10) for chunk in range(1, count + 1)
    ]


def test_the_next_chunk_is_prepared_meanwhile():
    prepared = {2: Event(), 3: Event()}

    def prepare(chunk):
        if chunk in prepared:
            assert current_thread() is not main_thread()
            prepared[chunk].set()
        return chunk

    for chunk, _ in prepared_ahead([1, 2, 3], prepare):
        if chunk + 1 in prepared:
            assert prepared[chunk + 1].wait(10)  # the caller is not done with this one


def test_no_chunk_is_lost_to_the_error_of_a_later_one():
    def chunks():
        yield 1
        yield 2
        raise ValueError("the file ends here")

    arrived = prepared_ahead(chunks(), str)
    assert [next(arrived), next(arrived)] == [(1, "1"), (2, "2")]
    with pytest.raises(ValueError, match="the file ends here"):
        next(arrived)


def test_an_error_while_preparing_is_raised_in_its_turn():
    arrived = prepared_ahead([1, 0, 2], lambda chunk: 1 / chunk)
    assert next(arrived) == (1, 1.0)
    with pytest.raises(ZeroDivisionError):
        next(arrived)
