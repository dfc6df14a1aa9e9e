"""What came of a sweep: statistics, tables, and a page."""
