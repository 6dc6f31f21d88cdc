"""What the benchmarked tasks take and return: about 330 bytes in, about 220 out."""

from typing import Final

INPUT: Final = ("Summarise what changed in the last quarter, and cite the figures you rely on. " * 5)[:330]
ANSWER: Final = ("The figures rose in three of the four regions; the fourth was flat, as it was before. " * 3)[:220]
SECOND: Final = 1.0  # that of the ones as long as a short call to a model
WAIT: Final = 0.05  # seconds the body of a waiting task takes
