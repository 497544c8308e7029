"""The paper's evaluation as one run: experts, composing, extension, over several random seeds; one report.

plan.py says what is measured, lab.py brings the seed and its experts, measure.py makes one cell, cells.py keeps
it; summary.py, criteria.py, tables.py, figures.py and page.py make the report of whatever cells there are. run.py is
the whole flow.
"""
