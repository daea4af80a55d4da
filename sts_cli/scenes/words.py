"""The vocabulary of the scenes. The demo model was trained on it: add words, never reorder."""

from __future__ import annotations

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (212, 32, 32),
    "green": (44, 150, 52),
    "blue": (36, 68, 214),
    "yellow": (250, 222, 40),
    "orange": (246, 140, 24),
    "purple": (126, 44, 166),
    "brown": (122, 72, 30),
    "black": (18, 18, 18),
    "white": (246, 246, 246),
    "gray": (132, 132, 132),
    "pink": (250, 136, 194),
    "teal": (0, 112, 116),
    "cyan": (72, 218, 230),
}
SHAPES: dict[str, str] = {  # singular -> plural
    "circle": "circles",
    "square": "squares",
    "rectangle": "rectangles",
    "triangle": "triangles",
    "star": "stars",
    "heart": "hearts",
    "diamond": "diamonds",
    "cross": "crosses",
    "ring": "rings",
    "moon": "moons",
}
CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
WORDS = tuple(
    """
    OPEN CLOSED EXIT ENTER STOP SALE CAFE HOTEL TAXI BUS PARK SHOP BAR FOOD PIZZA ZONE SLOW
    FAST PUSH PULL HELP KEEP OUT IN UP DOWN LEFT RIGHT NORTH SOUTH EAST WEST BANK BOOK MUSIC
    FIRE WATER ICE HOT COLD NEW OLD FREE FRESH FISH MEAT BREAD MILK TEA JUICE WINE BEER SOUP
    CAKE APPLE LEMON ROSE TREE LAKE RIVER HILL ROAD LANE STREET BRIDGE TOWN CITY HOME HOUSE
    ROOM DOOR GATE WALL KEY LOCK BOX BAG HAT SHOE COAT GOLD SILVER SUN SKY RAIN SNOW WIND
    CLOUD DOG CAT BIRD HORSE COW PIG DUCK LION TIGER BEAR WOLF FOX ZEBRA QUEEN KING JAZZ ROCK
    DANCE FILM PHOTO ART GAME PLAY TOY KIDS BABY MEN WOMEN TEAM CLUB GYM POOL BEACH BOAT SHIP
    PLANE TRAIN TRACK PORT DOCK YARD FARM FIELD QUIET LIGHT DARK YES NO OK WIFI TICKET CASH
    VISA MENU LUNCH DINNER BRUNCH GRILL SUSHI TACO CURRY BURGER COFFEE MOCHA SUGAR SALT PEPPER
    HONEY JAM EGGS RICE CORN PLUM PEACH GRAPE MANGO KIWI SPRING SUMMER AUTUMN WINTER MONDAY
    FRIDAY SUNDAY TODAY LATER NEVER ALWAYS LUCKY HAPPY LOVE PEACE HOPE DREAM MAGIC POWER SPEED
    SPACE ROBOT PIXEL TOKEN MODEL VISION WORD QUIZ
    """.split()  # noqa: SIM905
)
