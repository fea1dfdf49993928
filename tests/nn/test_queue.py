"""The queue is a ring of the latest keys, of all processes."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unlabeled.nn.queue import Queue


@given(size=st.integers(1, 12), counts=st.lists(st.integers(0, 30), max_size=6))
def test_holds_the_latest_keys_where_a_plain_ring_does(size, counts):
    queue, place, value = Queue(size, 1), 0, 0
    ring = queue.rows.flatten().tolist()
    for count in counts:
        keys = list(range(value, value + count))
        queue.push(torch.tensor(keys, dtype=torch.float32)[:, None])
        value += count
        for key in keys:
            ring[place] = float(key)
            place = (place + 1) % size
        assert queue.rows.flatten().tolist() == ring
        assert int(queue.place) == place
        assert len(queue) == size


def test_starts_with_unit_rows_that_the_seed_decides():
    torch.manual_seed(3)
    first = Queue(50, 8)
    torch.manual_seed(3)
    again = Queue(50, 8)
    assert torch.equal(first.rows, again.rows)
    torch.testing.assert_close(first.rows.norm(dim=1), torch.ones(50))


def test_casts_to_its_own_type_and_keeps_no_graph():
    queue = Queue(4, 2)
    keys = torch.rand(3, 2, dtype=torch.bfloat16, requires_grad=True)
    queue.push(keys * 2)
    assert queue.rows.dtype == torch.float32
    assert not queue.rows.requires_grad
    assert torch.equal(queue.rows[:3], (keys.detach() * 2).float())


def test_checkpoints_keep_it():
    queue, other = Queue(4, 2), Queue(4, 2)
    queue.push(torch.rand(3, 2))
    other.load_state_dict(queue.state_dict())
    keys = torch.rand(3, 2)
    queue.push(keys)
    other.push(keys)
    assert torch.equal(queue.rows, other.rows)


def test_an_empty_queue_is_refused():
    with pytest.raises(ValueError, match="0 keys"):
        Queue(0, 8)


SCRIPT = """
import sys
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from unlabeled.losses.contrastive import nt_xent
from unlabeled.nn.gathering import gather_rows
from unlabeled.nn.queue import Queue

COUNTS = (3, 2)  # rows of each process: unequal


def batch():
    rng = torch.Generator().manual_seed(0)
    return torch.randn(5, 4, generator=rng), torch.randn(5, 4, generator=rng)


def work(rank, address):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    mine = slice(0, 3) if rank == 0 else slice(3, 5)
    torch.manual_seed(0)
    queue = Queue(7, 4)
    for shift in range(2):
        queue.push(batch()[0][mine] + shift)
    weight = torch.nn.Linear(4, 4)
    torch.nn.init.eye_(weight.weight)
    first, second = (gather_rows(weight(each[mine])) for each in batch())
    loss = nt_xent(first, second)
    loss.backward()
    mean = weight.weight.grad * COUNTS[rank] / 5  # as the loop averages gradients
    dist.all_reduce(mean)
    torch.save((queue.rows, queue.place, loss.detach(), mean), f"{sys.argv[1]}/{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    mp.spawn(work, (f"file://{sys.argv[1]}/meeting",), 2)
"""


def test_two_processes_hold_what_one_does(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]

    from unlabeled.losses.contrastive import nt_xent

    rng = torch.Generator().manual_seed(0)
    first, second = (torch.randn(5, 4, generator=rng) for _ in range(2))
    torch.manual_seed(0)
    queue = Queue(7, 4)
    for shift in range(2):
        queue.push(first + shift)
    weight = torch.nn.Linear(4, 4)
    torch.nn.init.eye_(weight.weight)
    loss = nt_xent(weight(first), weight(second))
    loss.backward()
    for rank in range(2):
        rows, place, their_loss, gradient = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert torch.equal(rows, queue.rows)
        assert int(place) == int(queue.place)
        torch.testing.assert_close(their_loss, loss.detach())
        torch.testing.assert_close(gradient, weight.weight.grad)
