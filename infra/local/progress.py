"""Progress reports of a starting stack: sentences, and steps of a long task that replace the step before."""

from collections.abc import Callable
from typing import Self

__all__ = ["Progress", "Report"]

Report = Callable[[str], None]


class Progress(str):
    """A line that may replace the line before it: `done` of `steps` steps are done."""

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
        """Whether this step completes a quarter of the task: only such lines are shown where lines remain."""
        return self.done * 4 // self.steps > (self.done - 1) * 4 // self.steps
