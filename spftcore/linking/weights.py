"""Weights of the linear scores, fitted on Spider's train pairs by `bench/linking.py --fit`."""

SAME_SPAN = 0.7  # each further value of one span of the question counts so much less

VALUE_BIAS = -6.778
VALUE_WEIGHTS = {
    "whole": 3.763,
    "run": -0.278,
    "covered": 0.285,
    "spelled alike": 0.848,
    "but for case": 1.315,
    "other words": -0.741,
    "quoted": 0.673,
    "capital": -0.08,
    "small words": -1.932,
    "digits": -0.84,
    "schema word": -1.948,
    "letters": 0.506,
    "several words": -0.053,
    "column named": 1.793,
    "table named": 1.446,
    "column near": 0.826,
    "table near": -0.502,
    "key": -1.002,
    "columns that hold it": -1.72,
    "one letter": 0.123,
    "inside a longer one": -4.487,
    "lower case": -0.746,
    "flag": 2.154,
    "flag as said": 3.955,
    "column not named": 0.959,
    "small words in other case": 0.531,
    "part of a pattern": 3.097,
    "number": 0.428,
}

TABLE_BIAS = -1.083
TABLE_WEIGHTS = {
    "named": -1.064,
    "wholly named": 1.827,
    "rarity": 1.362,
    "best column": -1.082,
    "column wholly named": 0.833,
    "rarest column": 1.621,
    "columns named": 1.146,
    "value": 3.881,
    "neighbour named": 0.122,
    "value in a neighbour": -0.359,
    "keys": -0.765,
    "named less": -2.087,
    "rows": -0.789,
    "joins two named": 0.743,
    "joins two meant": 0.651,
}

COLUMN_BIAS = -1.712
COLUMN_WEIGHTS = {
    "named": 1.362,
    "wholly named": 1.156,
    "rarity": 1.118,
    "run": 0.252,
    "table named": 0.542,
    "table": -0.169,
    "value": 6.722,
    "primary key": 1.529,
    "foreign key": 1.246,
    "a name": -0.172,
    "name of a named table": 0.527,
    "number asked": 0.019,
    "date asked": 0.882,
    "who asked": 0.035,
    "other table named": 0.794,
    "near the table": -1.287,
    "words": -0.181,
    "place in table": -0.44,
    "first text": 0.159,
    "named less": -1.144,
    "best of its words": 0.553,
}
