"""Answers that wait for a process: problems take turns, so that one with hundreds of answers holds nobody up."""

from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Items of many owners. Owners take turns; the items of one come in the order in which they were put."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, deque[T]] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def put(self, owner: str, item: T) -> None:
        """Last of its owner's."""
        self._waiting.setdefault(owner, deque()).append(item)
        self._size += 1

    def put_back(self, owners: Sequence[str], items: Sequence[T]) -> None:
        """What was taken and not begun: first again, in the same order."""
        for owner, item in zip(reversed(owners), reversed(items), strict=True):
            self._waiting.setdefault(owner, deque()).appendleft(item)
            self._waiting.move_to_end(owner, last=False)
            self._size += 1

    def take(self, count: int) -> list[T]:
        """Up to `count` items, one of each owner in turn."""
        taken: list[T] = []
        while self._waiting and len(taken) < count:
            owner, items = self._waiting.popitem(last=False)
            taken.append(items.popleft())
            if items:
                self._waiting[owner] = items
        self._size -= len(taken)
        return taken
