"""report.html, a run on one page: what it found, how, at what cost and with which mistakes.

`report.page.write_report` draws it; it is imported on its own, as it waits for matplotlib.
"""
