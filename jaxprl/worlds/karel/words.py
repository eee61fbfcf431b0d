"""Descriptions of Karel's world in words, for prompts."""

WORLD = (
    "A cell is either open floor or a wall. The outermost ring of cells is always wall.",
    "An open cell holds a pile of 0 to 10 markers.",
    "The robot stands on one cell and faces north (up), east (right), south (down) or west (left).",
    "The episode ends after 10,000 actions and perceptions.",
)
"""The world, as sentences (`Language.world`)."""
MEANINGS = {
    "move": "go one cell forward; if a wall is in the way, stay and turn around instead (two left turns).",
    "turnLeft": "rotate 90 degrees counter-clockwise.",
    "turnRight": "rotate 90 degrees clockwise.",
    "putMarker": "put one marker on the cell under the robot; does nothing if there are 10.",
    "pickMarker": "take one marker from the cell under the robot; does nothing if there is none.",
    "frontIsClear": "the cell ahead is not a wall.",
    "leftIsClear": "the cell to the robot's left is not a wall.",
    "rightIsClear": "the cell to the robot's right is not a wall.",
    "markersPresent": "the robot's cell holds at least one marker.",
    "noMarkersPresent": "the robot's cell holds no marker.",
}
"""What each action and perception does (`Language.meanings`)."""
CRASHES = "An action that is not possible crashes the robot: it changes nothing, and the episode ends."
"""What there is to say besides of a world that is crashable, as a sentence."""
CRASHING = {
    "move": "go one cell forward; if a wall is in the way, the robot crashes.",
    "putMarker": "put one marker on the cell under the robot; if there are 10, the robot crashes.",
    "pickMarker": "take one marker from the cell under the robot; if there is none, the robot crashes.",
}
"""What the actions that can crash do in a world that is crashable."""
DIRECTIONS = ("north", "east", "south", "west")
"""The names of the directions 0..3."""
SIGNS = (
    "Rows count from the top and columns from the left, both from 0; north is up.",
    "# is a wall, . an open cell without markers, a number the markers on an open cell.",
)
"""How to read a picture of the world, as sentences (`Picture.signs`)."""
