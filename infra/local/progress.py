"""What a stack tells while it starts: sentences, and steps of one long task, each of which stands for those before."""

from collections.abc import Callable
from typing import Self

__all__ = ["Progress", "Report"]

Report = Callable[[str], None]


class Progress(str):
    """A line that may take the place of the one before: so many steps are done, of so many."""

    __slots__ = ("done", "steps")
    done: int
    steps: int

    def __new__(cls, text: str, done: int, steps: int) -> Self:
        """Return the line."""
        line = super().__new__(cls, text)
        line.done, line.steps = done, steps
        return line

    @property
    def ends_quarter(self) -> bool:
        """Whether another quarter of the steps is done: enough to tell where lines stay."""
        return self.done * 4 // self.steps > (self.done - 1) * 4 // self.steps
