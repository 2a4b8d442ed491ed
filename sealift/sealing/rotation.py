"""Changing keys, in words that say what each change does not protect."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KeyChange:
    """What a command on keys did.

    Attributes:
        name: one word or two, for people and machines.
        protects: what is safer now.
        leaves: what is not.
    """

    name: str
    protects: str
    leaves: str

    def __str__(self) -> str:
        return f"{self.name}: {self.protects}. Not protected: {self.leaves}."


ADD_SLOT = KeyChange(
    "add slot",
    "one more secret opens this repository, all of it",
    "a secret that is kept beside the store it opens",
)
REMOVE_SLOT = KeyChange(
    "remove slot",
    "whoever reads the store from now on does not find this slot",
    "anything, against whoever kept a copy of the slot or of the root key it held: they read "
    "what was sealed and what will be. A new epoch shuts them out of new data",
)
NEW_EPOCH = KeyChange(
    "new epoch",
    "new data is sealed under a new random root key, which older slots and older copies of "
    "the root key do not open",
    "data sealed before, which the old root key opens for as long as it is stored; reseal it, "
    "or let retention remove it",
)
RESEAL = KeyChange(
    "reseal",
    "all data that is referenced is sealed under the root key of the newest epoch",
    "the old objects until their quarantine is over and prune has deleted them; copies that "
    "somebody took or that the store keeps as versions or under a lock; content ids, which stay",
)
EVERY_CHANGE = (ADD_SLOT, REMOVE_SLOT, NEW_EPOCH, RESEAL)
