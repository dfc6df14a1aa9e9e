"""The harness itself: a test that runs on ranks is worth as much as its failures."""

import os
import time

import pytest
import torch
from tests.parallel.ranks import RankError, Ranks
from torch import Tensor, distributed


def total_of(number: float) -> tuple[int, Tensor, int]:
    total = torch.tensor(number * (distributed.get_rank() + 1))
    distributed.all_reduce(total)
    return distributed.get_rank(), total, torch.get_num_threads()


def fail_on_the_second() -> None:
    if distributed.get_rank() == 1:
        raise ValueError("no such thing")
    distributed.barrier()


def die_on_the_second() -> None:
    if distributed.get_rank() == 1:
        os._exit(7)
    distributed.barrier()


def sleep_on_the_second() -> None:
    if distributed.get_rank() == 1:
        time.sleep(600)


@pytest.fixture(scope="module")
def ranks():
    with Ranks(2) as ranks:
        yield ranks


def test_each_rank_answers_and_they_talk_to_each_other(ranks):
    assert ranks.run(total_of, 2.0) == [(0, torch.tensor(6.0), 1), (1, torch.tensor(6.0), 1)]


def test_an_exception_comes_with_its_rank_and_new_processes_serve_the_next(ranks):
    with pytest.raises(RankError, match=r"(?s)rank 1 of 2 failed:.*ValueError: no such thing"):
        ranks.run(fail_on_the_second)
    assert [answer[0] for answer in ranks.run(total_of, 1.0)] == [0, 1]


def test_a_dead_rank_is_named(ranks):
    with pytest.raises(RankError, match="rank 1 of 2 died: exit code 7"):
        ranks.run(die_on_the_second)


def test_a_rank_that_takes_too_long_is_named(ranks):
    ranks.run(total_of, 1.0)  # the start of new processes is not what is timed here
    ranks.timeout = 0.5
    with pytest.raises(RankError, match=r"rank 1 of 2: no answer within 0.5 s"):
        ranks.run(sleep_on_the_second)
