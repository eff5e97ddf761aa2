"""The check-up: one look at everything that makes the ledger's guarantees true or false."""

from workers.ops.doctor.checkup import run_checkup
from workers.ops.doctor.model import CheckResult, CheckupReport, Grade

__all__ = ["CheckResult", "CheckupReport", "Grade", "run_checkup"]
