"""A set of partitions divided among the members of a group, each to one of them (spec recipes 16).

``name/members/<id>`` is a member, leased, as :mod:`coord.recipes.membership` writes it, with its weight.
``name/owners/<partition>`` is an owner, leased. Its create revision is the fencing token.

Every member computes from the members that it sees who should have what: :mod:`.assignment`, a pure function. That is
only a wish. Whoever should have a partition creates its key when there is none, and whoever has one that it should not
have any longer drains it and deletes its key. So members that see different groups may want the same partition, and
still only one has it.

``view`` follows the group, ``engine`` does the moves, ``callbacks`` runs the application's functions on their own loop,
``ownership`` is what is held, ``state`` what can be looked at from outside.
"""

from coord.recipes.partitioner.ownership import Ownership, OwnershipLost
from coord.recipes.partitioner.partitioner import Partitioner
from coord.recipes.partitioner.state import Assignment, PartitionMember, PartitionOwner

__all__ = [
    "Assignment",
    "Ownership",
    "OwnershipLost",
    "PartitionMember",
    "PartitionOwner",
    "Partitioner",
]
