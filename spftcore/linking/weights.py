"""Weights of the linear scores, fitted on Spider's train pairs by `bench/linking.py --fit`."""

SAME_SPAN = 0.7  # each further value of one span of the question counts so much less

VALUE_BIAS = -8.046
VALUE_WEIGHTS = {
    "whole": 3.39,
    "run": -0.15,
    "covered": 1.471,
    "spelled alike": 1.01,
    "but for case": 0.812,
    "other words": -1.279,
    "quoted": 0.937,
    "capital": 0.148,
    "small words": -1.446,
    "digits": -0.957,
    "schema word": -1.67,
    "letters": 0.771,
    "several words": -0.181,
    "column named": 1.526,
    "table named": 1.248,
    "column near": 0.788,
    "table near": -0.237,
    "key": -0.406,
    "columns that hold it": -1.834,
    "one letter": 0.602,
    "inside a longer one": -4.339,
    "lower case": -0.464,
    "flag": 3.151,
    "flag as said": 4.005,
    "column not named": 0.835,
    "small words in other case": 0.961,
    "part of a pattern": 3.212,
    "number": -0.405,
}

TABLE_BIAS = -1.278
TABLE_WEIGHTS = {
    "named": -1.164,
    "wholly named": 1.87,
    "rarity": 1.4,
    "best column": -1.056,
    "column wholly named": 0.853,
    "rarest column": 1.6,
    "columns named": 1.149,
    "value": 4.238,
    "neighbour named": 0.167,
    "value in a neighbour": -0.335,
    "keys": -0.583,
    "named less": -2.132,
    "rows": -0.749,
    "joins two named": 0.808,
    "joins two meant": 0.467,
}

COLUMN_BIAS = -1.661
COLUMN_WEIGHTS = {
    "named": 1.388,
    "wholly named": 1.137,
    "rarity": 1.063,
    "run": 0.273,
    "table named": 0.523,
    "table": -0.158,
    "value": 7.447,
    "primary key": 1.499,
    "foreign key": 1.201,
    "a name": -0.236,
    "name of a named table": 0.542,
    "number asked": 0.046,
    "date asked": 0.907,
    "who asked": 0.034,
    "other table named": 0.812,
    "near the table": -1.308,
    "words": -0.178,
    "place in table": -0.455,
    "first text": 0.155,
    "named less": -1.158,
    "best of its words": 0.553,
}
