"""Utterances to packed arrays.

In: the manifest and the recordings. Out: stores of features, on disk once. Never: labels, folds, models that are trained.
"""
