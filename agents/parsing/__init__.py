"""How the rule-based intent parser reads a text.

::

    text ──tokens──▶ mentions ──clauses, negation──▶ orders ──scoring, slots──▶ actions
           tokens.py   mentions.py   reading.py                 scoring.py, slots.py

Every word must be accounted for: as a phrase of an action, the name of a thing, a value, or one of
the closed lists in :mod:`agents.parsing.words`. A word that is none of these makes the parser ask
back, since what it does not understand may change everything ("restart checkout *tomorrow*").
"""
