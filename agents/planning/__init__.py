"""How the planner works: drafting steps for intended actions, checking steps, ordering them."""
