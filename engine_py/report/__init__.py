"""A run's report: one self-contained HTML page, and the same numbers in the terminal.

All numbers come from one statement (run_report, behind it the views report_*): here they are only laid out.
"""
