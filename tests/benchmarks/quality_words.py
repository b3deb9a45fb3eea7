"""Which names of a vocabulary are other words for a class, and which are not wrong for it either.

Written from the names alone. `SAME` are taken out of a vocabulary, for the class itself is asked
for: each true class stands in it once. `KIN`, kinds of the class and what it is a kind of, stay in
it and are wrong answers (the truth knows one class), unless a table says that kin count as right.
"""

import numpy as np

from pipeline.arrays import Bools
from pipeline.label_set import normal_word
from tests.benchmarks.quality_sets import Labelled, Words

SAME = {
    "car": {"car (automobile)", "automobile"},
    "boat": {"ship"},  # CIFAR-10's class "ship" is asked for as "a boat"
    "ice cream": {"icecream"},
    "kiwi": {"kiwi fruit"},
}
_VEHICLE = {"vehicle", "motor vehicle", "land vehicle"}
_BIRDS = """wild bird;seabird;blue jay;canary;chicken;chicken (animal);cock;crane;crow;dove;duck;
duckling;eagle;falcon;flamingo;goose;gull;heron;hummingbird;mallard;ostrich;owl;parakeet;parrot;
pelican;penguin;pigeon;puffin;raven;sparrow;swan;turkey;vulture;woodpecker""".replace("\n", "")
_SHIPS = """vehicle;watercraft;barge;canoe;cargo ship;cruise ship;dinghy;ferry;gondola (boat);
houseboat;passenger ship;river boat;sailboat;yacht""".replace("\n", "")
KIN = {
    "airplane": {"aircraft", "jet plane", "fighter jet", "seaplane", "vehicle"},
    "car": {"sports car", "race car", "suv", "limousine", "jeep", "convertible (automobile)"}
    | {"cab (taxi)", "taxi", "police cruiser", "minivan"}
    | _VEHICLE,
    "bird": {"animal", *_BIRDS.split(";")},
    "cat": {"animal", "carnivore", "pet", "kitten"},
    "deer": {"animal", "elk"},
    "dog": {"animal", "carnivore", "pet", "puppy", "bulldog", "dalmatian", "pug dog"}
    | {"shepherd dog", "english springer"},
    "frog": {"animal"},
    "horse": {"animal", "foal", "pony"},
    "boat": set(_SHIPS.split(";")),
    "truck": {"heavy truck", "trailer truck", "garbage truck", "tow truck", "fire engine"}
    | {"fire truck"}
    | _VEHICLE,
    "pie": {"dessert", "pastry"},
    "hamburger": {"sandwich"},
    "ice cream": {"dessert"},
}


def opened(asked: Labelled, words: Words) -> tuple[Words, Bools]:
    """Ask for a set's classes among all the names of a vocabulary.

    Returns:
        The set's classes, in their order, then the names that mean something else; and who is of
        the kin, (C, names): whether a name is right for a class, if kin count.
    """
    taken = {normal_word(name) for name in asked.classes}
    taken |= {other for name in asked.classes for other in SAME.get(normal_word(name), ())}
    kept = []
    for index, name in enumerate(words.names):
        if normal_word(name) not in taken:
            taken.add(normal_word(name))
            kept.append(index)
    names = asked.classes + tuple(words.names[index] for index in kept)
    right = np.zeros((len(asked.classes), len(names)), np.bool_)
    for row, name in enumerate(asked.classes):
        kin = KIN.get(normal_word(name), set())
        right[row] = [normal_word(other) in kin for other in names]
        right[row, : len(asked.classes)] = False
        right[row, row] = True
    return Words(names, np.concatenate([asked.texts, words.texts[kept]])), right
