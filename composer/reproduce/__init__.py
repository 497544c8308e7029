"""The paper's evaluation as one run: experts, composing and extension over several random seeds, and one report.

plan.py lists the cases, lab.py provides the seed and its experts, measure.py measures one cell, cells.py stores it.
summary.py, criteria.py, tables.py, figures.py and page.py make the report from the cells measured so far. run.py
contains the whole flow.
"""
