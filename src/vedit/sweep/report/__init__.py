"""What came of a sweep: statistics, tables, and a page."""

from vedit.sweep.report.write import write_report

__all__ = ["write_report"]
