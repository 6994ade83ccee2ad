"""Generated corpora in the layouts of real ones.

In: a seed and a size. Out: recordings, labels and a card with the best score within reach. Never: features, models.
"""
