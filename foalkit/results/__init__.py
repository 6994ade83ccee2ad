"""Runs to numbers.

In: records and predictions. Out: scores, intervals, tables. Never: features, networks, recordings.
"""
