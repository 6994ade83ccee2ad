"""A trained variant and a clip to an answer.

In: the runs of a variant, a media file. Out: probabilities, each run's vote, what was missing or odd. Never: labels.
"""

from foalkit.recognizer.recognizer import Recognizer as Recognizer
