"""Meeting other frameworks: users' own FastStream apps."""
