"""What is going on, for people and for programs: of a client itself, and of what stands behind a name (spec recipes C15).

Which recipe a name belongs to is told by its keys alone (``layouts``): nobody keeps a list of names.
Keys that fit none of them are said to be unknown, and counted.
"""

from coord.explaining.client import ClientExplanation, SessionReport, WatchReport, explain_client
from coord.explaining.explanation import Explanation
from coord.explaining.name import NameExplanation, Place, explain_name

__all__ = [
    "ClientExplanation",
    "Explanation",
    "NameExplanation",
    "Place",
    "SessionReport",
    "WatchReport",
    "explain_client",
    "explain_name",
]
