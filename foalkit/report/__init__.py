"""Numbers to what people look at.

In: results and, to look inside one run, its weights and features. Out: page, figures, tables. Never: a new number.
"""
