"""Short lists of English words that make poor labels by themselves. What is not here is not known.

They are lists made by hand, not a dictionary: they catch what is common and say nothing of the
rest.
"""

# Words with several meanings that can be photographed, and the meanings.
SEVERAL_MEANINGS = {
    "apple": "a fruit or a company",
    "bank": "of a river or for money",
    "bass": "a fish or a guitar",
    "bat": "an animal or for hitting a ball",
    "boot": "a shoe or of a car",
    "bow": "a ribbon, a weapon or of a ship",
    "bowl": "a dish or a stadium",
    "boxer": "a dog or an athlete",
    "buffalo": "an animal or a city",
    "bug": "an insect or a fault in a program",
    "bulb": "of a lamp or of a flower",
    "cardinal": "a bird or a churchman",
    "china": "a country or porcelain",
    "chips": "fried potatoes, crisps or electronics",
    "club": "a place to dance, a stick or a suit of cards",
    "coach": "a bus or a trainer",
    "crane": "a bird or a machine",
    "cricket": "an insect or a sport",
    "cup": "to drink from or a prize",
    "date": "a fruit or a day",
    "drill": "a tool or an ape",
    "fan": "a machine or a supporter",
    "file": "a tool or a folder of papers",
    "fly": "an insect or what birds do",
    "football": "two sports and two balls",
    "glasses": "for the eyes or to drink from",
    "horn": "of an animal, of a car or a trumpet",
    "iron": "a metal or for clothes",
    "jaguar": "an animal or a car",
    "java": "an island, coffee or a language",
    "jumper": "a pullover or somebody who jumps",
    "keyboard": "of a computer or a piano",
    "kite": "a toy or a bird",
    "kiwi": "a fruit or a bird",
    "letter": "of the alphabet or in an envelope",
    "match": "for fire or a game",
    "mercury": "a planet, a metal or a car",
    "mint": "a plant or a sweet",
    "mole": "an animal or on the skin",
    "monitor": "a screen or a lizard",
    "mouse": "an animal or of a computer",
    "mustang": "a horse or a car",
    "nail": "of a finger or for a hammer",
    "nut": "a fruit or for a bolt",
    "orange": "a fruit or a colour",
    "organ": "of a body or of a church",
    "palm": "a tree or of a hand",
    "pants": "trousers or underwear",
    "pepper": "a spice or a vegetable",
    "pitcher": "a jug or a baseball player",
    "plant": "what grows or a factory",
    "pool": "to swim in or billiards",
    "puma": "an animal or a brand of shoes",
    "pupil": "of an eye or of a school",
    "python": "a snake or a language",
    "racket": "for tennis or a noise",
    "ray": "a fish or of light",
    "ring": "for a finger or to box in",
    "rock": "a stone or music",
    "ruler": "to measure with or a king",
    "scale": "to weigh with or of a fish",
    "seal": "an animal or a stamp",
    "spring": "a season, a coil or a source of water",
    "squash": "a vegetable or a sport",
    "star": "in the sky, a shape or somebody famous",
    "stool": "to sit on or a medical sample",
    "suit": "clothes or of cards",
    "swift": "a bird or a quality",
    "tank": "a vehicle, for liquids or a top",
    "tie": "to wear or a draw",
    "toast": "bread or a drink to somebody",
    "trunk": "of a tree, of an elephant or of a car",
    "turkey": "a bird or a country",
    "watch": "a clock or what guards do",
}

_COLOURS = "red green blue yellow black white grey gray brown pink purple beige turquoise colourful"
_SIZES = "big small large little tiny huge tall short long thick thin wide narrow"
_STATES = (
    "old new young dirty clean broken open closed empty full wet dry hot cold bright dark blurry "
    "striped dotted shiny transparent wooden metallic beautiful ugly cute happy sad angry"
)
_PLACES = (
    "chinese japan japanese korea korean india indian america american usa germany german france "
    "french italy italian spain spanish mexico mexican russia russian africa african europe "
    "european asia asian indoors outdoors inside outside"
)
# Words that say how a thing is, or where it is or comes from, and not what it is.
QUALITIES = frozenset(f"{_COLOURS} {_SIZES} {_STATES} {_PLACES}".split())
# These do so only in the company of the others: an orange among fruits is a thing.
QUALITIES_AMONG_OTHERS = frozenset(["china", "gold", "orange", "silver", "turkey", "violet"])
