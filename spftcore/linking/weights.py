"""Weights of the linear scores, fitted on Spider's train pairs by `bench/linking.py --fit`."""

SAME_SPAN = 0.7  # each further value of one span of the question counts so much less

VALUE_BIAS = -7.923
VALUE_WEIGHTS = {
    "whole": 2.939,
    "run": 0.495,
    "covered": 1.2,
    "spelled alike": 1.098,
    "but for case": 1.082,
    "other words": -0.893,
    "quoted": 0.787,
    "capital": 0.118,
    "small words": -1.727,
    "digits": -0.765,
    "schema word": -1.862,
    "letters": 0.563,
    "several words": -0.045,
    "column named": 1.759,
    "table named": 1.448,
    "column near": 0.793,
    "table near": -0.444,
    "key": -1.146,
    "columns that hold it": -1.617,
    "one letter": 0.209,
    "inside a longer one": -4.52,
    "lower case": -0.418,
    "flag": 3.056,
    "flag as said": 4.137,
    "column not named": 0.888,
    "small words in other case": 0.671,
    "part of a pattern": 2.963,
    "number": 0.53,
}

TABLE_BIAS = -1.299
TABLE_WEIGHTS = {
    "named": -1.125,
    "wholly named": 1.846,
    "rarity": 1.393,
    "best column": -1.082,
    "column wholly named": 0.853,
    "rarest column": 1.608,
    "columns named": 1.133,
    "value": 3.87,
    "neighbour named": 0.184,
    "value in a neighbour": -0.358,
    "keys": -0.562,
    "named less": -2.112,
    "rows": -0.747,
    "joins two named": 0.804,
    "joins two meant": 0.463,
}

COLUMN_BIAS = -1.716
COLUMN_WEIGHTS = {
    "named": 1.394,
    "wholly named": 1.144,
    "rarity": 1.075,
    "run": 0.275,
    "table named": 0.552,
    "table": -0.17,
    "value": 6.721,
    "primary key": 1.514,
    "foreign key": 1.221,
    "a name": -0.183,
    "name of a named table": 0.524,
    "number asked": 0.021,
    "date asked": 0.867,
    "who asked": 0.034,
    "other table named": 0.806,
    "near the table": -1.3,
    "words": -0.173,
    "place in table": -0.447,
    "first text": 0.163,
    "named less": -1.136,
    "best of its words": 0.554,
}
