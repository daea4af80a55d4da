"""Phrasings for each kind of question; `{}` is replaced by the name of a thing."""

from __future__ import annotations

TEXT = (
    "what is on the sign?",
    "what does the sign say?",
    "what is written on the sign?",
    "read the sign.",
    "what text is on the sign?",
    "what does it say?",
    "what is the text?",
    "which word is on the sign?",
    "what's on the sign?",
    "please read the text on the sign.",
    "tell me what the sign says.",
    "can you read the sign?",
    "sign text?",
)
TEXT_OF = (
    "what is on the {} sign?",
    "what does the {} sign say?",
    "what is written on the {} sign?",
    "read the {} sign.",
    "what text is on the {} sign?",
    "tell me what the {} sign says.",
    "text on the {} sign?",
)
SIGN_COLOR = (
    "what color is the sign?",
    "what is the color of the sign?",
    "the sign is what color?",
    "which color does the sign have?",
    "tell me the color of the sign.",
    "sign color?",
)
SIGN_COLOR_OF = (
    "what color is the sign that says {}?",
    "what is the color of the sign that says {}?",
    "which color does the sign that says {} have?",
)
TEXT_COLOR = (
    "what color is the text on the {}?",
    "what is the color of the text on the {}?",
    "what color are the letters on the {}?",
    "which color does the text on the {} have?",
    "in what color is the text on the {} written?",
    "text color of the {}?",
)
COLOR = (
    "what color is the {}?",
    "what is the color of the {}?",
    "the {} is what color?",
    "which color does the {} have?",
    "tell me the color of the {}.",
    "{} color?",
)
SHAPE = (
    "what shape is {}?",
    "which shape is {}?",
    "what is the {} thing?",
    "what is the shape of the {} object?",
    "what {} shape is there?",
    "tell me which shape is {}.",
)
EXIST = (  # one thing, with its article
    "is there {}?",
    "do you see {}?",
    "can you see {}?",
    "does the image show {}?",
    "is {} in the picture?",
)
EXIST_MANY = ("are there any {}?", "do you see any {}?")
ABSENT = ("is there no {}?",)
ABSENT_MANY = ("are there no {}?",)
COUNT = (
    "how many {} are there?",
    "count the {}.",
    "how many {} do you see?",
    "how many {} are in the image?",
    "what is the number of {}?",
)
RELATION = (
    "where is the {} relative to the {}?",
    "where is the {} as seen from the {}?",
    "in which direction is the {} from the {}?",
)
PLACE = (
    "where is the {}?",
    "where in the image is the {}?",
    "in which part is the {}?",
    "in which part of the picture is the {}?",
    "what is the position of the {}?",
)
DESCRIBE = (
    "describe the image.",
    "describe this picture.",
    "what is in the image?",
    "what do you see?",
    "what is shown here?",
    "tell me what is in the picture.",
    "describe the picture from left to right.",
)
