"""Answers to questions outside training: greedy, by vote over samples, with a second try.

    model = OpenModel(ModelSource.find("runs/demo"))
    with model.answerer(catalogue, Strategy(samples=8)) as answerer:
        for answered in answerer.answers([Question("1", "shop", "How many orders are there?")]):
            print(answered.sql)

`docs/inference.md` states the rules and what they gain.
"""
