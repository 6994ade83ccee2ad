"""Recordings to one table of utterances, and its folds.

In: a corpus's folder. Out: the manifest, what was left out and why, splits. Never: a decoded sound or picture.
"""
